"""Shared nearest neighbours of two feature sets."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.metrics._base import paired
from harness.metrics._knn_pair import located, pairs_of, prepared, sides
from harness.metrics._neighbours import Neighbours

__all__ = ["mutual_knn"]


@paired(identical=1.0, prepare=prepared)
def mutual_knn(x: Float[np.ndarray, "n d"] | Neighbours, y: Float[np.ndarray, "n e"] | Neighbours, *, topk: int = 10, normalize: bool = True) -> float:
    """Mean share in [0, 1] of a sample's `topk` nearest in x that are among its `topk` nearest in y; chance is topk / (n - 1).

    Symmetric. Huh et al. (2024), section 3. `normalize` divides rows by their length first. Ties go to the lower index: see
    `neighbours`, whose result either side may be. Raises UsageError for rows that do not pair up, NaN, `topk` outside 1 .. n - 1.
    """
    found = sides(x, y, topk, normalize=normalize)
    shared = located(pairs_of(found.x, topk).key, pairs_of(found.y, topk).key)
    return float(shared.there.mean())
