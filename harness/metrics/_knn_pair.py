"""Both sides of a comparison of neighbourhoods, and neighbourhoods as sorted lists of pairs of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from harness.errors import UsageError
from harness.metrics._base import require_pair
from harness.metrics._neighbours import ONCE, Neighbours, neighbours

__all__ = ["Located", "Pairs", "Sides", "as_pairs", "located", "pairs_of", "prepared", "sides", "turned"]


class Sides(NamedTuple):
    """Neighbours of the same samples in two feature sets."""

    x: Neighbours
    y: Neighbours


class Pairs(NamedTuple):
    """Pairs (i, j) of n samples as i * n + j, ascending, and a similarity for each."""

    key: Int64[np.ndarray, "m"]
    similarity: Float64[np.ndarray, "m"]


def prepared(
    x: Float[np.ndarray, "n d"],
    *,
    topk: int = 10,
    normalize: bool = True,
    groups: Sequence[object] | np.ndarray | None = None,
    device: str = "cpu",
    eps: float = 0.0,
    unbiased: bool = True,
) -> Neighbours:
    """Neighbours for a metric, given all its options; the last two do not concern them. Raises what `neighbours` raises."""
    return neighbours(x, topk=topk, normalize=normalize, groups=groups, device=device)


def sides(x: np.ndarray | Neighbours, y: np.ndarray | Neighbours, topk: int, *, normalize: bool) -> Sides:
    """Both sides with at least `topk` neighbours each. Neighbours given instead of rows keep the normalisation they were found with.

    Raises UsageError for rows that do not pair up, NaN, or a `topk` that the samples or the neighbours do not have.
    """
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        require_pair(x, y, "paired")
    if len(x) != len(y):
        raise UsageError("the two do not describe the same samples", got=f"{len(x)} and {len(y)} rows", expected="one row of each for every sample")
    found = Sides(*(side if isinstance(side, Neighbours) else neighbours(side, topk=topk, normalize=normalize, spare=ONCE) for side in (x, y)))
    for name, side in zip("xy", found, strict=True):
        if not 1 <= topk <= side.topk:
            expected, advice = f"1 to {side.topk}, as many as were found", f"neighbours({name}, topk={topk})"
            raise UsageError(f"the neighbours of {name} are too few", got=f"topk {topk}", expected=expected, next=advice)
    return found


def pairs_of(side: Neighbours, topk: int) -> Pairs:
    """Every sample with each of its `topk` neighbours."""
    return as_pairs(side.index[:, :topk], side.similarity[:, :topk])


def as_pairs(index: Int64[np.ndarray, "n k"], similarity: Float64[np.ndarray, "n k"]) -> Pairs:
    """Sample i with each entry of row i."""
    order = np.argsort(index, axis=1)
    key = np.take_along_axis(index, order, 1) + len(index) * np.arange(len(index))[:, None]
    return Pairs(key.ravel(), np.take_along_axis(similarity, order, 1).ravel())


def turned(key: Int64[np.ndarray, "m"], n: int) -> Int64[np.ndarray, "m"]:
    """The pair (j, i) of each pair (i, j)."""
    row, column = np.divmod(key, n)
    return column * n + row


class Located(NamedTuple):
    """Whether each wanted pair is there, and where."""

    there: Bool[np.ndarray, "w"]
    at: Int64[np.ndarray, "w"]


def located(wanted: Int64[np.ndarray, "w"], key: Int64[np.ndarray, "m"]) -> Located:
    """`key` is ascending; `at` is only meaningful where the pair is there."""
    at = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
    return Located(key[at] == wanted if len(key) else np.zeros(len(wanted), bool), at)
