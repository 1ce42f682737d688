"""How few edits turn the neighbours in one feature set into those in the other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.metrics._base import paired
from harness.metrics._knn_lists import edit_distances
from harness.metrics._knn_pair import prepared, sides
from harness.metrics._neighbours import Neighbours

__all__ = ["edit_distance_knn"]


@paired(identical=1.0, prepare=prepared)
def edit_distance_knn(x: Float[np.ndarray, "n d"] | Neighbours, y: Float[np.ndarray, "n e"] | Neighbours, *, topk: int = 10, normalize: bool = True) -> float:
    """One minus the mean edit distance (Levenshtein) of a sample's neighbours in x and in y, nearest first, over `topk`; in [0, 1].

    Symmetric. `edit_distance_knn` of platonic-rep (Huh et al., 2024). Takes n topk^2 steps beside the neighbours.
    `normalize` divides rows by their length first. Ties go to the lower index: see `neighbours`, whose result either side may be.
    Raises UsageError for rows that do not pair up, NaN, `topk` outside 1 .. n - 1.
    """
    found = sides(x, y, topk, normalize=normalize)
    return 1 - float(edit_distances(found.x.index[:, :topk], found.y.index[:, :topk]).mean()) / topk
