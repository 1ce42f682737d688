"""Centred kernel alignment restricted to nearest neighbours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError
from harness.metrics._base import paired
from harness.metrics._knn_hsic import sparse_hsic
from harness.metrics._knn_pair import Pairs, as_pairs, located, pairs_of, prepared, sides
from harness.metrics._neighbours import Neighbours

__all__ = ["cknna"]


@paired(identical=1.0, prepare=prepared)
def cknna(
    x: Float[np.ndarray, "n d"] | Neighbours,
    y: Float[np.ndarray, "n e"] | Neighbours,
    *,
    topk: int = 10,
    normalize: bool = True,
    eps: float = 0.0,
    unbiased: bool = True,
) -> float:
    """Alignment of the similarities between samples and those among their `topk` nearest in both sets; 1 for identical features.

    HSIC(m K, m L) / (sqrt(HSIC(a K, a K) HSIC(b L, b L)) + eps) with K, L inner products, a, b the masks of each row's `topk` largest,
    m = a b; Huh et al. (2024). Independent features score about topk / (n - 1), so only values of the same n and `topk` compare;
    small negative values are real. **Not symmetric**: the masks belong to rows, and sums over rows of y meet sums over columns of x; pass the
    model's features as x and the reference as y. `topk` = n - 1 is the unbiased linear CKA.
    `normalize` divides rows by their length. `eps` 1e-6 gives the numbers of platonic-rep, which depend on the features' scale; with 0
    scale does not matter. `unbiased` False keeps each sample among its own neighbours and is inflated: independent features of
    n = 500 score 0.3. Ties go to the lower index: see `neighbours`, whose result either side may be, to leave out whole episodes.
    Raises UsageError for rows that do not pair up, NaN, fewer than four samples, `topk` outside 2 .. n - 1, or a side that has no
    alignment with itself (such as rows of zeros).
    """
    if len(x) < 4:
        raise UsageError("too few samples for an alignment", got=f"{len(x)} rows", expected="at least 4", next="give more samples")
    if topk < 2:
        raise UsageError("topk does not fit", got=topk, expected=f"2 to {len(x) - 1}", next="mutual_knn takes 1 neighbour")
    found = sides(x, y, topk, normalize=normalize)
    a, b = ((pairs_of if unbiased else _with_self)(side, topk) for side in found)
    shared, n = located(a.key, b.key), len(found.x)
    cross = sparse_hsic(a.key[shared.there], a.similarity[shared.there], b.similarity[shared.at[shared.there]], n, unbiased=unbiased)
    own = [sparse_hsic(of.key, of.similarity, of.similarity, n, unbiased=unbiased) for of in (a, b)]
    for name, alone in zip("xy", own, strict=True):
        if alone < 0 or (alone == 0 and eps == 0):
            advice = "look for rows of zeros, give more samples or a larger topk"
            raise UsageError(f"{name} has no alignment with itself", got=f"{alone:.3g}", expected="a positive one", next=advice)
    return cross / (float(np.sqrt(own[0]) * np.sqrt(own[1])) + eps)


def _with_self(side: Neighbours, topk: int) -> Pairs:
    """Each sample with the `topk` most similar, itself included where it is one of them."""
    index, similarity = side.index[:, :topk].copy(), side.similarity[:, :topk].copy()
    samples, lead = np.arange(len(side)), side.own - similarity[:, -1]
    tied = np.abs(lead) <= 2.0**-38 * np.maximum(side.own, np.abs(similarity[:, -1]))
    taken = np.where(tied, samples < index[:, -1], lead > 0)
    index[taken, -1], similarity[taken, -1] = samples[taken], side.own[taken]
    return as_pairs(index, similarity)
