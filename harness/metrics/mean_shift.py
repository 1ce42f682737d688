"""Standardised difference of the means of each feature."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from harness.metrics._base import require_pair, two_sample
from harness.metrics._features import CONSTANT, PerFeature, moments, observed, per_feature

__all__ = ["mean_shift"]


def _effects(pooled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cohen's d of every split and feature; the squares within the samples are the pool's less those between the means."""
    rows, spread = moments(pooled)
    first, total = labels.sum(1, keepdims=True), len(pooled)
    below = -(labels.astype(np.float64) @ rows) * (total / (first * (total - first)))
    between = below**2 * (first * (total - first) / total)
    within = total * spread**2 - between
    pooled_std = np.sqrt(np.maximum(within, 0) / (total - 2))
    return below / np.where(within > total * (CONSTANT * spread) ** 2, pooled_std, spread)


def _relabelled(pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"]) -> Float[np.ndarray, "p"]:
    return np.sqrt((_effects(pooled, labels) ** 2).mean(1))


@two_sample(identical=0.0, relabelled=_relabelled)
def mean_shift(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> PerFeature:
    """Root mean square over features of Cohen's d, in [0, inf); `features` are signed, positive where `y` has the higher mean.

    d = (mean of y - mean of x) / s, with s² the pooled variance within the samples, n + m - 2 degrees of freedom (Cohen, 1988, p. 67).
    A feature that is constant within both samples is told in standard deviations of all rows: two different constants are then
    at most sqrt((n + m)² / nm) apart, 2 at equal n. Blind to anything but means.

    Two samples of one distribution give about sqrt(1/n + 1/m), not 0: unequal n raise it. Any float dtype; sums in float64.
    Raises UsageError for fewer than two rows, unequal widths, NaN or infinity.
    """
    require_pair(x, y, "two_sample")
    effects = _effects(np.concatenate([x, y]), observed(len(x), len(y)))[0]
    return per_feature(effects, float(np.sqrt((effects**2).mean())))
