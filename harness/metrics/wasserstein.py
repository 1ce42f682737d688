"""1-Wasserstein distance of each feature, in standard deviations of the accepted sample."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from harness.metrics._base import require_pair, two_sample
from harness.metrics._features import PerFeature, moments, observed, per_feature
from harness.metrics._sorted import areas

__all__ = ["wasserstein"]


def _distances(pooled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return areas(pooled, labels) / moments(pooled).of_first(labels)


def _relabelled(pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"]) -> Float[np.ndarray, "p"]:
    return _distances(pooled, labels).mean(1)


@two_sample(identical=0.0, relabelled=_relabelled)
def wasserstein(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> PerFeature:
    """Mean over features of the exact 1-Wasserstein distance, in [0, inf), in units of that feature's standard deviation over `x`.

    The integral of |F - G| over the line (Vallender, 1974), so n and m may differ. A feature that is constant in `x` (spread below a
    millionth of the pool's) is told in standard deviations of the pooled rows, which keeps a dead feature that came alive finite.
    Sees each feature alone: blind to correlations, and to a rotation of an isotropic sample.

    Never negative, so not 0 on average for two samples of one distribution: about 1.3 sqrt(1/n + 1/m) for Gaussian features, 0.13 at
    n = m = 200. Unequal n change that level; compare values at equal n, or with their permutation null.
    Any float dtype; sums in float64. Raises UsageError for fewer than two rows, unequal widths, NaN or infinity.
    """
    require_pair(x, y, "two_sample")
    return per_feature(_distances(np.concatenate([x, y]), observed(len(x), len(y)))[0])
