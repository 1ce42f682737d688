"""Differences between captured arrays, in float64 on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.adapters import Adapter
from harness.extract import pooled
from harness.types import Array, Point, Sample

__all__ = ["host", "relative_difference", "worst_row_difference"]


def host(x: Array) -> np.ndarray:
    """`x` as a float64 numpy array, wherever it lives."""
    return np.asarray(x.detach().double().cpu() if hasattr(x, "detach") else x, np.float64)


def relative_difference(x: Array, y: Array) -> float:
    """Largest absolute difference over the largest magnitude of `y`; 0 is equal, infinite when a shape or a NaN disagrees."""
    left, right = host(x), host(y)
    if left.shape != right.shape or not np.array_equal(np.isfinite(left), np.isfinite(right)):
        return float("inf")
    difference = float(np.abs(left - right).max(initial=0.0))
    return difference / scale if (scale := float(np.abs(right).max(initial=0.0))) else difference


def worst_row_difference(adapter: Adapter, reference: Adapter, samples: Sequence[Sample]) -> tuple[float, Point]:
    """Largest `relative_difference` of mean-pooled rows over the last point of every stack, and that point."""
    points = list({point.stack: point for point in reference.clauses}.values())
    rows, wanted = (pooled(one, samples, points) for one in (adapter, reference))
    found = {point: relative_difference(rows[point], wanted[point]) for point in points}
    worst = max(found, key=found.__getitem__)
    return found[worst], worst
