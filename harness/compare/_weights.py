"""How far the weights moved, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.adapters import Adapter

__all__ = ["WeightDrift", "of_point", "weight_drift"]


@dataclass(frozen=True)
class WeightDrift:
    """Of one module: ‖b - a‖ / ‖a‖ over all of its parameters, how many tensors differ of how many, and which one moved most (none: empty)."""

    module: str
    change: float
    differing: int
    tensors: int
    largest: str


def weight_drift(first: Adapter, second: Adapter) -> dict[str, WeightDrift]:
    """By module: the blocks and norms that the contract names, and all other parameters by the start of their name.

    Norms are Frobenius norms in float64. Raises UsageError for a family without weights that can be listed.
    """
    modules = sorted({clause.module for clause in first.clauses.values() if clause.side == "output" and clause.module}, key=len, reverse=True)
    sums: dict[str, list[tuple[float, float, str]]] = {}
    for (name, left), (_, right) in zip(first.parameters(), second.parameters(), strict=True):
        moved, size = _squares(right, left), _squares(left, np.zeros(1, np.float32))
        sums.setdefault(_module(name, modules), []).append((moved, size, name))
    return {module: _summed(module, found) for module, found in sums.items()}


def _squares(x: np.ndarray, y: np.ndarray) -> float:
    """The sum of squared differences, a slice of rows at a time in float64."""
    if x.ndim < 2:
        return float(((x.astype(np.float64) - y) ** 2).sum())
    y = np.broadcast_to(y, x.shape)
    return float(sum(((x[start : start + 256].astype(np.float64) - y[start : start + 256]) ** 2).sum() for start in range(0, len(x), 256)))


def _module(name: str, modules: Iterable[str]) -> str:
    """The longest module that a parameter lies in; else the name without its last part, at most three parts of it."""
    for module in modules:
        if name.startswith(module) and name[len(module) : len(module) + 1] in (".", "/", ""):
            return module
    sign = "/" if "/" in name else "."
    return sign.join(name.split(sign)[:-1][:3]) or name


def _summed(module: str, found: list[tuple[float, float, str]]) -> WeightDrift:
    size = sum(own for _, own, _ in found)
    moved = sum(own for own, _, _ in found)
    relative = [(np.sqrt(own / norm) if norm else float("inf") if own else 0.0, name) for own, norm, name in found]
    change = float(np.sqrt(moved / size)) if size else float("inf") if moved else 0.0
    return WeightDrift(module, change, sum(own > 0 for own, _, _ in found), len(found), max(relative)[1] if moved else "")


def of_point(drifts: Mapping[str, WeightDrift], adapter: Adapter) -> dict[str, WeightDrift]:
    """By point: the drift of the module whose output it is."""
    return {str(point): drifts[clause.module] for point, clause in adapter.clauses.items() if clause.side == "output" and clause.module in drifts}
