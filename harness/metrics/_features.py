"""A drift statistic of every feature, and the unit in which a feature's movement is told."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["PerFeature", "Unit", "moments", "observed", "per_feature"]

CONSTANT = 1e-6  # of the spread of all rows: a sample that spreads less over a feature counts as constant there


class PerFeature(NamedTuple):
    """One number for all features (see the metric for which), the statistic of each feature, and the feature that moved most."""

    value: float
    features: Float[np.ndarray, "d"]
    worst: int


class Unit(NamedTuple):
    """Rows centred over the whole pool in float64, and the spread of each feature over the pool (1 where it is constant)."""

    rows: Float[np.ndarray, "n d"]
    spread: Float[np.ndarray, "d"]

    def of_first(self, labels: Bool[np.ndarray, "p n"]) -> Float[np.ndarray, "p d"]:
        """Standard deviation of the labelled rows, or of the whole pool where the labelled rows are constant."""
        chosen, n = labels.astype(np.float64), labels.sum(1, keepdims=True)
        variance = chosen @ self.rows**2 / n - (chosen @ self.rows / n) ** 2
        return np.where(variance > (CONSTANT * self.spread) ** 2, np.sqrt(np.maximum(variance, 0)), self.spread)


def moments(pooled: Float[np.ndarray, "n d"]) -> Unit:
    """The pool centred at its mean, with its standard deviations."""
    varies = (pooled != pooled[:1]).any(0)
    rows = np.where(varies, pooled - pooled.mean(0, dtype=np.float64), 0.0)  # the mean of equal values differs from them by rounding
    return Unit(rows, np.where(varies, np.sqrt((rows**2).mean(0)), 1.0))


def observed(n: int, m: int) -> Bool[np.ndarray, "1 total"]:
    """The labels of the split as it was: the first n of n + m rows."""
    return (np.arange(n + m) < n)[None]


def per_feature(statistic: Float[np.ndarray, "d"], value: float | None = None) -> PerFeature:
    """The mean over features (or `value`), the statistic of each and the one of largest magnitude."""
    return PerFeature(float(statistic.mean()) if value is None else value, statistic, int(np.abs(statistic).argmax()))
