"""Share of features whose distributions differ by the Kolmogorov-Smirnov test, false discoveries controlled."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from harness.errors import UsageError
from harness.metrics._base import require_pair, two_sample
from harness.metrics._features import observed
from harness.metrics._sorted import largest_gaps

__all__ = ["ks"]

EXACT = 10_000  # largest n m whose tail is counted path by path; the counts stay below 1e59


class Rejections(NamedTuple):
    """Share of features rejected in [0, 1]; the statistic, the p-value and the verdict of each feature."""

    value: float
    statistic: Float[np.ndarray, "d"]
    p_values: Float[np.ndarray, "d"]
    rejected: Bool[np.ndarray, "d"]


def _relabelled(pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"], *, fdr: float = 0.05) -> Float[np.ndarray, "p"]:
    found = zip(largest_gaps(pooled, labels), labels.sum(1).tolist(), strict=True)
    return np.array([_discoveries(_tails(gaps, n, len(pooled) - n), fdr).mean() for gaps, n in found])


@two_sample(identical=0.0, relabelled=_relabelled)
def ks(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], *, fdr: float = 0.05) -> Rejections:
    """Share of features rejected at false-discovery rate `fdr`; `statistic` is the largest |F - G| of each feature, in [0, 1].

    p-values are exact for n m up to 10,000 (paths that leave the band; conservative under ties, as for features with many equal values), else
    Kolmogorov's limit: within 3 % at equal n for p from 0.01 to 0.3, too large by up to a fifth there when n and m differ. They take rows
    for independent; frames of one episode are not, so permute episodes to judge those.
    Benjamini and Hochberg (1995) over all d features: valid for independent or positively dependent ones. A feature constant and
    equal in both has p = 1 and counts among the d. Sees each feature alone.

    Under the null the value is 0 with probability about 1 - `fdr` at any n and m. What it can see grows with nm / (n + m): two shares compare at
    equal n only. Raises UsageError for `fdr` outside (0, 1), fewer than two rows, unequal widths, NaN or infinity.
    """
    require_pair(x, y, "two_sample")
    if not 0 < fdr < 1:
        raise UsageError("not a rate of false discoveries", got=f"fdr={fdr}", expected="a number between 0 and 1")
    n, m = len(x), len(y)
    found = largest_gaps(np.concatenate([x, y]), observed(n, m))[0]
    p_values = _tails(found, n, m)
    rejected = _discoveries(p_values, fdr)
    return Rejections(float(rejected.mean()), found / (n * m), p_values, rejected)


def _tails(found: np.ndarray, n: int, m: int) -> np.ndarray:
    """P(statistic >= found), `found` in units of 1 / nm."""
    if n * m <= EXACT:
        distinct, index = np.unique(found, return_inverse=True)
        return np.array([_exact_tail(height, *sorted((n, m))) for height in distinct.tolist()])[index]
    from scipy.special import kolmogorov

    return kolmogorov(found / np.sqrt(n * m * (n + m)))


@lru_cache(10_000)
def _exact_tail(height: float, n: int, m: int) -> float:
    """The share of the lattice paths from (0, 0) to (n, m) that reach |i m - j n| >= height (Hodges, 1958); no subtraction, so small tails are exact."""
    columns = np.arange(m + 1)
    paths = np.ones(m + 1)
    left = np.where(columns * n >= height, paths, 0)
    for i in range(1, n + 1):
        paths = np.cumsum(paths)
        inside = np.flatnonzero(np.abs(i * m - columns * n) < height)
        through = paths.copy()
        if len(inside):
            start, stop = inside[0], inside[-1] + 1
            through[start:stop] = np.cumsum(left[start:stop]) + (paths[start - 1] if start else 0)
        left = through
    return float(left[-1] / paths[-1])


def _discoveries(p_values: np.ndarray, fdr: float) -> np.ndarray:
    ordered = np.sort(p_values)
    passing = np.flatnonzero(ordered <= fdr * np.arange(1, len(ordered) + 1) / len(ordered))
    return p_values <= ordered[passing[-1]] if len(passing) else np.zeros(len(ordered), bool)
