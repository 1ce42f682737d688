"""Squared maximum mean discrepancy between two samples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from harness.errors import UnknownNameError, UsageError
from harness.metrics._base import require_pair, two_sample
from harness.metrics._features import observed
from harness.metrics._pairwise import discrepancies, require_twins, squared_distances

__all__ = ["mmd"]

KERNELS = ("linear", "rbf")
MEDIAN_ROWS = 1000  # half a million distances: their median is known to about 1 %, whatever n is


def _median_distance(pooled: np.ndarray) -> float:
    chosen = pooled[np.unique(np.linspace(0, len(pooled) - 1, MEDIAN_ROWS).round().astype(int))].astype(np.float64)
    chosen -= chosen.mean(0)
    distances = np.sqrt(squared_distances(chosen, chosen)[np.triu_indices(len(chosen), 1)])
    return float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0


def _relabelled(
    pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"], *, kernel: str = "rbf", sigma: float | None = None, pairs: bool = False
) -> Float[np.ndarray, "p"]:
    if kernel not in KERNELS:
        raise UnknownNameError("kernel", kernel, KERNELS)
    if sigma is not None and not sigma > 0:
        raise UsageError("a kernel needs a width", got=f"sigma={sigma}", expected="a positive number, or None for the median distance")
    if pairs:
        require_twins(labels)
    if kernel == "linear":
        return discrepancies(pooled, labels, lambda squared: squared / 2, pairs=pairs)
    width = 2 * (sigma or _median_distance(pooled)) ** 2
    # 1 - k gives the same statistic as -k and keeps the digits of small distances.
    return discrepancies(pooled, labels, lambda squared: -np.expm1(-squared / width), pairs=pairs)


@two_sample(identical=0.0, relabelled=_relabelled)
def mmd(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], *, kernel: str = "rbf", sigma: float | None = None, pairs: bool = False
) -> float:
    """Unbiased squared MMD, E k(X, X') + E k(Y, Y') - 2 E k(X, Y), at most 2 for the `rbf` kernel; often slightly negative when nothing moved.

    Gretton et al. (2012), lemma 6. `rbf`: k(a, b) = exp(-|a - b|² / (2 sigma²)), `sigma` by default the median non-zero distance among the
    pooled rows, of which at most 1000, evenly spaced, are used (all up to n + m = 1000; beyond that the order of rows has a small say).
    `linear`: k(a, b) = a · b, the squared distance of the means. Its mean is the MMD of the distributions at any n and m.
    `pairs` for row i of x and row i of y computed from one sample: twins are left out (eq. 4 there), so a set and itself score exactly 0 up to
    rounding; without it two copies of n rows score below 0, by about 2/n times 1 less the mean kernel.

    `rbf` sees scale and correlations, `linear` means only. float64 products, memory of a few tiles; any float dtype.
    Raises UsageError for an unknown kernel, a width that is not positive, fewer than two rows, unequal widths, NaN or infinity,
    `pairs` with unequal n.
    """
    require_pair(x, y, "two_sample")
    return float(_relabelled(np.concatenate([x, y]), observed(len(x), len(y)), kernel=kernel, sigma=sigma, pairs=pairs)[0])
