"""Normalisation statistics of an openpi checkpoint (`assets/ASSET/norm_stats.json`): states in, actions out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.adapters._weights import read_json
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError

__all__ = ["Range", "Statistics", "find", "parse"]

EPS = 1e-6  # as upstream adds it, to the deviation and to the distance of the quantiles


class Range(NamedTuple):
    """The numbers that become 0 and 1 (mean, deviation), or -1 and 1 (1st and 99th percentile)."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Of one dataset. `quantiles` as π0.5 has it; widths are the dataset's, without the zeros that some runs padded with."""

    state: Range
    actions: Range
    quantiles: bool

    @property
    def state_width(self) -> int:
        return len(self.state.low)

    def normalised(self, state: np.ndarray) -> np.ndarray:
        """A state (a,) in the dataset's units as the model's numbers, float64."""
        low, high = self.state
        scaled = (np.asarray(state, np.float64) - low) / (high - low + EPS if self.quantiles else high + EPS)
        return 2.0 * scaled - 1.0 if self.quantiles else scaled

    def action(self, x: np.ndarray) -> np.ndarray:
        """Actions (..., a) in the dataset's units and width, from the model's numbers (..., wider)."""
        low, high = self.actions
        x = np.asarray(x, np.float64)[..., : len(low)]
        return (x + 1.0) / 2.0 * (high - low + EPS) + low if self.quantiles else x * (high + EPS) + low


def find(directory: Path, chosen: str | None, *, quantiles: bool) -> Statistics | None:
    """Statistics of asset `chosen`, or of the only one; None when the checkpoint never had any (a bare params/).

    Raises MissingError when it should have some, UnknownNameError, UsageError when several could be meant, DamagedError.
    """
    assets = directory / "assets"
    known = {path.parent.relative_to(assets).as_posix(): path for path in sorted(assets.rglob("norm_stats.json"))}
    if not known:
        if assets.is_dir() or "assets" in _items(directory):
            what, next = "the checkpoint's normalisation statistics are not here", "copy the assets folder of the run"
            raise MissingError(what, where=assets, expected="assets/ASSET/norm_stats.json", next=next)
        if chosen is not None:
            raise UnknownNameError("asset with statistics", chosen, known, where=directory)
        return None
    if chosen is None and len(known) > 1:
        what, next = "the checkpoint has statistics of several datasets", "name one in options.norm_stats"
        raise UsageError(what, where=assets, got=", ".join(known), expected="one of them", next=next)
    name = min(known) if chosen is None else chosen
    if name not in known:
        raise UnknownNameError("asset with statistics", name, known, where=assets)
    stored = read_json(known[name])
    return parse(stored.get("norm_stats", stored), quantiles=quantiles, where=known[name])


def parse(stored: Mapping[str, Any], *, quantiles: bool, where: object) -> Statistics:
    """Statistics from `state` and `actions`, each with mean and std, or q01 and q99. Raises DamagedError."""
    names = ("q01", "q99") if quantiles else ("mean", "std")
    try:
        found = [np.array([stored[kind][name] for name in names], np.float64) for kind in ("state", "actions")]
    except (KeyError, TypeError, ValueError) as error:
        expected = f"state and actions with {' and '.join(names)}"
        raise DamagedError("statistics are not readable", where=where, got=repr(error), expected=expected) from error
    if wrong := [pair.shape for pair in found if pair.ndim != 2 or not pair.shape[1] or not np.isfinite(pair).all()]:
        raise DamagedError("statistics are not rows of finite numbers", where=where, got=wrong[0], expected="(2, width)")
    state, actions = (Range(*pair[:, : _width(pair)]) for pair in found)
    return Statistics(state, actions, quantiles)


def _width(pair: np.ndarray) -> int:
    """The width without trailing zeros: upstream's older runs took statistics of padded states, whose padding has no spread."""
    used = np.flatnonzero(pair.any(0))
    return int(used[-1]) + 1 if len(used) else pair.shape[1]


def _items(directory: Path) -> Mapping[str, Any]:
    """What the run's own record says it saved; empty without a record."""
    try:
        record = json.loads((directory / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    items = record.get("item_handlers") if isinstance(record, dict) else None
    return items if isinstance(items, dict) else {}
