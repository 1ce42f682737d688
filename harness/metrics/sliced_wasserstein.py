"""1-Wasserstein distance along random directions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from harness.errors import UsageError
from harness.metrics._base import require_pair, two_sample
from harness.metrics._features import observed
from harness.metrics._sorted import areas

__all__ = ["sliced_wasserstein"]


def _relabelled(
    pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"], *, projections: int = 128, seed: int = 0
) -> Float[np.ndarray, "p"]:
    directions = np.random.default_rng(seed).standard_normal((pooled.shape[1], projections))
    return areas(pooled @ (directions / np.linalg.norm(directions, axis=0)), labels).mean(1)


@two_sample(identical=0.0, relabelled=_relabelled)
def sliced_wasserstein(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], *, projections: int = 128, seed: int = 0) -> float:
    """Mean over random unit directions of the 1-Wasserstein distance of the projected rows, in [0, inf), in units of the features.

    Rabin et al. (2011), with the first moment. Directions come from `seed` and the width, the same on every machine; a rotation of both
    samples changes the value by the Monte Carlo error of `projections` directions. Sees correlations; a feature of large scale outweighs
    the others, so rescale features first if their units differ. n and m may differ.

    Never negative: two samples of one distribution give a mean that falls with sqrt(1/n + 1/m). Compare values at equal n, or with
    their permutation null. Any float dtype; sums in float64.
    Raises UsageError for fewer than one projection or two rows, unequal widths, NaN or infinity.
    """
    require_pair(x, y, "two_sample")
    if projections < 1:
        raise UsageError("there is no direction to project on", got=f"projections={projections}", expected="at least 1")
    return float(_relabelled(np.concatenate([x, y]), observed(len(x), len(y)), projections=projections, seed=seed)[0])
