"""Energy distance: twice the distance between the samples less the distances within each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from harness.errors import UsageError
from harness.metrics._base import require_pair, two_sample
from harness.metrics._features import observed
from harness.metrics._pairwise import discrepancies, require_twins

__all__ = ["energy_distance"]


def _relabelled(
    pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"], *, biased: bool = False, pairs: bool = False
) -> Float[np.ndarray, "p"]:
    if biased and pairs:
        raise UsageError("one estimator at a time", got="biased=True, pairs=True", expected="at most one of them")
    if pairs:
        require_twins(labels)
    return discrepancies(pooled, labels, np.sqrt, biased=biased, pairs=pairs)


@two_sample(identical=0.0, relabelled=_relabelled)
def energy_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], *, biased: bool = False, pairs: bool = False) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| with Euclidean norms, in units of the features; 0 for equal distributions only.

    Székely and Rizzo (2013), not its root. By default the U-statistic: its mean over independent samples is the distance of the distributions
    at any n and m, 0 under the null, so single values are often negative. `biased` gives the V-statistic, at least 0, too high by
    E|X - X'| / n + E|Y - Y'| / m: compare that one at equal n only.
    `pairs` for row i of x and row i of y computed from one sample (two checkpoints): the n pairs of twins, which are not independent, are
    left out. A set and itself then score exactly 0 up to rounding, and a re-run is not drowned; without `pairs` two copies of n rows
    score -2/n times their mean distance, because copies are not independent samples.

    Sees scale and correlations; features of large scale outweigh the others. float64 products, memory of a few tiles; any float dtype.
    Raises UsageError for fewer than two rows, unequal widths, NaN or infinity, `pairs` with unequal n, or both options.
    """
    require_pair(x, y, "two_sample")
    return float(_relabelled(np.concatenate([x, y]), observed(len(x), len(y)), biased=biased, pairs=pairs)[0])
