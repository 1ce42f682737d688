"""Samples that are found again by a step to a neighbour in one set and a step back in the other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.metrics._base import paired
from harness.metrics._knn_pair import located, pairs_of, prepared, sides, turned
from harness.metrics._neighbours import Neighbours

__all__ = ["cycle_knn"]


@paired(identical=1.0, prepare=prepared)
def cycle_knn(x: Float[np.ndarray, "n d"] | Neighbours, y: Float[np.ndarray, "n e"] | Neighbours, *, topk: int = 10, normalize: bool = True) -> float:
    """Share in [0, 1] of samples i with a neighbour j in y that has i among its `topk` neighbours in x.

    Not symmetric. Identical features score nearly 1, not 1: a sample may be no neighbour of any of its own. `cycle_knn` of
    platonic-rep (Huh et al., 2024). `normalize` divides rows by their length first; without it long rows are everybody's neighbours,
    and a matrix scores 0.5 with itself. Ties go to the lower index: see `neighbours`, whose result either side may be.
    Raises UsageError for rows that do not pair up, NaN, `topk` outside 1 .. n - 1.
    """
    found = sides(x, y, topk, normalize=normalize)
    out = pairs_of(found.y, topk).key
    return float(located(turned(out, len(found.x)), pairs_of(found.x, topk).key).there.reshape(-1, topk).any(1).mean())
