"""OpenVLA's action tokens: the last words of the vocabulary are bins over [-1, 1], un-normalised by dataset statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from harness.adapters._prismatic import PrismaticConfig
from harness.errors import DamagedError, UnknownNameError, UsageError

__all__ = ["action_statistics", "decode_actions"]


def action_statistics(config: PrismaticConfig, unnorm_key: str | None) -> dict[str, np.ndarray]:
    """`q01`, `q99` and `mask` of one dataset; `unnorm_key` may be None when there is only one.

    Raises UsageError without a key among several, UnknownNameError for one that is not there, DamagedError without statistics.
    """
    known = config.norm_stats
    if not known:
        raise DamagedError("the checkpoint has no action statistics", where="config.json, field norm_stats", expected="one entry for each training dataset")
    if unnorm_key is None and len(known) > 1:
        raise UsageError("which dataset's action statistics?", got="no unnorm_key", expected=f"one of {', '.join(sorted(known))}")
    key = next(iter(known)) if unnorm_key is None else unnorm_key
    if key not in known:
        raise UnknownNameError("unnorm_key", key, known)
    action = known[key]["action"]
    mask = action.get("mask", [True] * len(action["q01"]))
    return {"q01": np.asarray(action["q01"], float), "q99": np.asarray(action["q99"], float), "mask": np.asarray(mask, bool)}


def decode_actions(token_ids: Sequence[int], config: PrismaticConfig, unnorm_key: str | None = None) -> Float[np.ndarray, "a"]:
    """The action (a,) in the dataset's own units that `token_ids` stand for (openvla modeling_prismatic.py:519-536).

    Ids count bins backwards from the end of the unpadded vocabulary; the last bin has no centre and takes its neighbour's.
    """
    statistics = action_statistics(config, unnorm_key)
    if len(token_ids) != len(statistics["q01"]):
        raise UsageError("the number of action tokens is wrong", got=len(token_ids), expected=len(statistics["q01"]))
    edges = np.linspace(-1, 1, config.n_action_bins)
    centres = (edges[:-1] + edges[1:]) / 2
    bins = np.clip(config.text.vocab_size - config.pad_to_multiple_of - np.asarray(token_ids) - 1, 0, len(centres) - 1)
    low, high = statistics["q01"], statistics["q99"]
    return np.where(statistics["mask"], 0.5 * (centres[bins] + 1) * (high - low) + low, centres[bins])
