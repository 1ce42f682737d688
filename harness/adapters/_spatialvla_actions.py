"""SpatialVLA's action tokens: three for a step, of one translation (in spherical bins), one rotation and one gripper state.

Source: SpatialVLA e4807532, `model/action_tokenizer.py` (TOKENS) and `model/processing_spatialvla.py` (PROCESSOR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi, prod, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError

__all__ = ["ActionTokens"]

TOKENS_PER_STEP = 3
# Where a checkpoint brings no edges, bins are uniform over these ranges (TOKENS:250-261, :343-347). Order is that of the digits of a token.
_RANGES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "translation": {"theta_bins": (0.0, pi), "phi_bins": (-pi, pi), "r_bins": (0.0, sqrt(3))},
    "rotation": {"roll_bins": (-1.0, 1.0), "pitch_bins": (-1.0, 1.0), "yaw_bins": (-1.0, 1.0)},
}
Edges = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ActionTokens:
    """How ids become actions: edges of the bins of each axis, the first id, steps predicted at once, statistics by dataset."""

    begin: int
    translation: Edges  # polar angle, azimuth, radius; or x, y, z where not spherical
    rotation: Edges  # roll, pitch, yaw
    spherical: bool
    steps: int
    statistics: Mapping[str, Any]

    @classmethod
    def from_processor(cls, processor: Mapping[str, Any], begin: int, where: object) -> ActionTokens:
        """From the fields of a saved `processor_config.json`, those of `action_config` there or beside the others.

        Raises MissingError without them, DamagedError where they disagree.
        """
        action = processor.get("action_config") or processor
        if not action.get("num_bins") or not begin:
            expected = "processor_config.json with action_config, config.json with action_token_begin_idx"
            raise MissingError("the checkpoint does not say what its action tokens mean", where=where, expected=expected)
        try:
            counts, policy = action["num_bins"], processor.get("bin_policy") or {}
            edges = {}
            for part, axes in _RANGES.items():
                uniform = {axis: np.linspace(*limits, counts[part][axis] + 1) for axis, limits in axes.items()}
                given = {axis: policy[part][axis] for axis in axes} if policy else uniform
                edges[part] = tuple(np.asarray(value, float) for value in given.values())
                if uneven := [axis for axis, value in given.items() if np.shape(value) != (counts[part][axis] + 1,)]:
                    got = ", ".join(uneven)
                    raise DamagedError("bin_policy and num_bins disagree", where=where, got=got, expected="one edge more than bins")
            spherical, steps = bool(action["use_spherical"]), int(processor.get("action_chunk_size", 1))
        except (KeyError, TypeError, ValueError) as error:
            what, expected = "the description of the action tokens is malformed", "num_bins, use_spherical, bin_policy"
            raise DamagedError(what, where=where, got=repr(error), expected=expected) from error
        return cls(begin, edges["translation"], edges["rotation"], spherical, steps, processor.get("statistics") or {})

    def decode(self, token_ids: Sequence[int], unnorm_key: str | None = None) -> Float[np.ndarray, "steps 7"]:
        """Actions in the units of dataset `unnorm_key` (PROCESSOR:213-258); ids beyond the last step are not looked at.

        As upstream, an id of another kind becomes its kind's nearest one, and ids that are lacking count as 0.
        Raises UsageError without a key among several datasets, UnknownNameError for one that is not there.
        """
        wanted = TOKENS_PER_STEP * self.steps
        ids = np.asarray([*token_ids, *[0] * wanted][:wanted], int).reshape(-1, TOKENS_PER_STEP)
        sizes = [prod(len(edges) - 1 for edges in part) for part in (self.translation, self.rotation)]
        first = self.begin
        moved = np.stack(_centres(np.clip(ids[:, 0] - first, 0, sizes[0] - 1), self.translation))
        if self.spherical:
            theta, phi, r = moved
            moved = np.stack([r * np.sin(theta) * np.cos(phi), r * np.sin(theta) * np.sin(phi), r * np.cos(theta)])
        turned = np.stack(_centres(np.clip(ids[:, 1] - first - sizes[0], 0, sizes[1] - 1), self.rotation))
        grasped = np.where(ids[:, 2] <= first + sum(sizes), 0.0, 1.0)
        actions = np.concatenate([np.clip(moved, -1, 1), turned, grasped[None]]).T  # the sphere is wider than the cube
        low, high, mask = self._limits(unnorm_key)
        return np.where(mask, 0.5 * (actions + 1) * (high - low) + low, actions)

    def _limits(self, unnorm_key: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        known = self.statistics
        if not known:
            where = "processor_config.json, field statistics"
            raise MissingError("the checkpoint has no action statistics", where=where, expected="one entry for each dataset")
        if unnorm_key is None and len(known) > 1:
            raise UsageError("which dataset's action statistics?", got="no unnorm_key", expected=f"one of {', '.join(sorted(known))}")
        key = next(iter(known)) if unnorm_key is None else unnorm_key
        if key not in known:
            raise UnknownNameError("unnorm_key", key, known)
        action = known[key]["action"]
        low, high = np.asarray(action["q01"], float), np.asarray(action["q99"], float)
        return low, high, np.asarray(action.get("mask", np.ones(len(low))), bool)


def _centres(index: np.ndarray, axes: Edges) -> list[np.ndarray]:
    """The middle of the bin on each axis; the last axis is the lowest digit of `index`."""
    digits = np.unravel_index(index, [len(edges) - 1 for edges in axes])
    return [0.5 * (edges[digit] + edges[digit + 1]) for edges, digit in zip(axes, digits, strict=True)]
