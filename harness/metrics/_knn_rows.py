"""Rows ready for blocked products: scaled, centred, and each distinct row once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from harness.errors import UsageError

__all__ = ["Rows", "chunks", "distinct_rows"]

ENTRIES = 2**16  # of float64 at a time: 0.5 MB stays in the cache of a core
LONGEST = 1e150  # a square of it is still a float64


@dataclass(frozen=True)
class Rows:
    """The u distinct rows of n samples; rows are distinct if their scaled values or their groups differ.

    `first` is the first sample of each, in ascending order, `label` the row of each sample. Row i is `factor[i] * x[first[i]]`: of length 1 or 0
    where rows are normalised. `centre` is the samples' mean, `offset` (row - centre) . centre, `spread` the length of row - centre,
    `unit` a power of two that brings both into float32's best range. `group` is None, or each row's group.
    """

    x: Float[np.ndarray, "n d"]
    first: Int64[np.ndarray, "u"]
    label: Int64[np.ndarray, "n"]
    factor: Float64[np.ndarray, "u"]
    length: Float64[np.ndarray, "u"]
    centre: Float64[np.ndarray, "d"]
    offset: Float64[np.ndarray, "u"]
    spread: Float64[np.ndarray, "u"]
    unit: float
    group: Int64[np.ndarray, "u"] | None

    def __len__(self) -> int:
        return len(self.first)

    def values(self, rows: slice | Int64[np.ndarray, "b"], columns: slice = slice(None)) -> Float64[np.ndarray, "b c"]:
        """Scaled rows in float64."""
        direct = isinstance(rows, slice) and len(self.first) == len(self.x)  # no row stands twice: a view instead of a copy
        values = self.x[rows if direct else self.first[rows], columns].astype(np.float64)
        values *= self.factor[rows, None]
        return values

    def centred(self, rows: slice | Int64[np.ndarray, "b"], out: Float32[np.ndarray, "b d"]) -> None:
        """Writes (row - centre) / unit in float32.

        Centring keeps float32 exact enough where all rows point the same way, as features of language models do.
        """
        for part in chunks(*out.shape):
            values = self.values(slice(rows.start + part.start, rows.start + part.stop) if isinstance(rows, slice) else rows[part])
            values -= self.centre
            if self.unit != 1:
                values *= 1 / self.unit
            out[part] = values


def chunks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows that hold about `ENTRIES` entries each."""
    step = max(1, ENTRIES // width)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def distinct_rows(x: Float[np.ndarray, "n d"], *, normalize: bool, group: Int64[np.ndarray, "n"] | None) -> Rows:
    """The distinct rows of x, in two passes over it, a few rows at a time.

    Raises UsageError for rows too long to be multiplied in float64.
    """
    n, d = x.shape
    weights = np.random.default_rng(0).standard_normal(d)  # equal rows have equal products with it, other rows hardly ever
    factor, length, mark, total = np.ones(n), np.empty(n), np.empty(n), np.zeros(d)
    for part in chunks(n, d):
        rows = x[part].astype(np.float64)
        length[part] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        if normalize:
            factor[part] = np.divide(1, length[part], out=np.zeros(len(rows)), where=length[part] > 0)
            rows *= factor[part, None]
        mark[part] = np.einsum("nd,d->n", rows, weights)
        total += rows.sum(0)
    if not np.isfinite(length).all() or length.max() > LONGEST:
        got, advice = f"a norm of {length.max():.3g}", "divide the features by a constant"
        raise UsageError("rows are too long to be multiplied", got=got, expected=f"norms up to {LONGEST:g}", next=advice)
    length = np.where(length > 0, 1.0, 0.0) if normalize else length
    first, label = _classes(x, factor, mark, group)
    u, centre = len(first), total / n
    offset, spread = np.zeros(u), np.zeros(u)
    rows = Rows(x, first, label, factor[first], length[first], centre, offset, spread, 1.0, None if group is None else group[first])
    for part in chunks(u, d):
        centred = rows.values(part) - centre
        offset[part], spread[part] = np.einsum("nd,d->n", centred, centre), np.sqrt(np.einsum("nd,nd->n", centred, centred))
    largest = max(spread.max(), np.sqrt(np.abs(offset).max()))
    return replace(rows, unit=float(2.0 ** np.ceil(np.log2(largest))) if largest > 0 else 1.0)


def _classes(
    x: Float[np.ndarray, "n d"], factor: Float64[np.ndarray, "n"], mark: Float64[np.ndarray, "n"], group: Int64[np.ndarray, "n"] | None
) -> tuple[Int64[np.ndarray, "u"], Int64[np.ndarray, "n"]]:
    """The first sample of every distinct row and each sample's row."""
    n = len(x)
    order = np.lexsort((mark,) if group is None else (mark, group))
    fresh = np.ones(n, bool)
    fresh[1:] = mark[order[1:]] != mark[order[:-1]]
    if group is not None:
        fresh[1:] |= group[order[1:]] != group[order[:-1]]
    first = order[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]  # lexsort is stable: the lowest sample leads
    leader = np.empty(n, np.int64)
    leader[order] = first
    doubted = np.flatnonzero(leader != np.arange(n))
    for part in chunks(len(doubted), x.shape[1]):
        one, other = doubted[part], leader[doubted[part]]
        differ = (x[one] * factor[one, None] != x[other] * factor[other, None]).any(1)
        leader[one[differ]] = one[differ]
    return np.unique(leader, return_inverse=True)
