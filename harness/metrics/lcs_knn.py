"""Neighbours that two feature sets list in the same order."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.metrics._base import paired
from harness.metrics._knn_lists import common_subsequences
from harness.metrics._knn_pair import prepared, sides
from harness.metrics._neighbours import Neighbours

__all__ = ["lcs_knn"]


@paired(identical=10.0, prepare=prepared)
def lcs_knn(x: Float[np.ndarray, "n d"] | Neighbours, y: Float[np.ndarray, "n e"] | Neighbours, *, topk: int = 10, normalize: bool = True) -> float:
    """Mean length, 0 to `topk`, of the longest common subsequence of a sample's neighbours in x and in y, nearest first.

    Symmetric; `topk` for identical features. `lcs_knn` of platonic-rep (Huh et al., 2024). Takes n topk^2 steps beside the neighbours.
    `normalize` divides rows by their length first. Ties go to the lower index: see `neighbours`, whose result either side may be.
    Raises UsageError for rows that do not pair up, NaN, `topk` outside 1 .. n - 1.
    """
    found = sides(x, y, topk, normalize=normalize)
    return float(common_subsequences(found.x.index[:, :topk], found.y.index[:, :topk]).mean())
