"""Candidates for the neighbours of every distinct row, in exact order, and how many of them are certain."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import sqrt

import numpy as np
from jaxtyping import Float64, Int64

from harness.metrics._knn_exact import levels, ranked, similarities
from harness.metrics._knn_rows import Rows
from harness.metrics._knn_tiles import centred, exact_float32, margin, most_similar, products

__all__ = ["Candidates", "Table", "candidates_among", "candidate_table"]

STRIP = 2**21  # entries of a strip of similarities: 8 MB of float32
COLUMNS = 512


@dataclass(frozen=True)
class Candidates:
    """For b rows the most similar distinct rows, best first and -1 where there are none left, their levels and similarities.

    The first `sure` of them are the best of all rows that were asked, those of equal level included; `right` counts also those that won
    a tie only by their rank.
    """

    index: Int64[np.ndarray, "b c"]
    level: Int64[np.ndarray, "b c"]
    similarity: Float64[np.ndarray, "b c"]
    sure: Int64[np.ndarray, "b"]
    right: Int64[np.ndarray, "b"]


@dataclass(frozen=True)
class Table:
    """The candidates of all distinct rows."""

    rows: Rows
    found: Candidates
    device: str


def candidate_table(rows: Rows, topk: int, spare: int | None, device: str) -> Table:
    """`topk` candidates of every row and `spare` more.

    By default enough that any half of the samples nearly always still has `topk` of them.
    """
    u = len(rows)
    found = _settled(rows, min(u - 1, topk + (topk + round(6 * sqrt(topk)) if spare is None else spare)), device)
    unsure = np.flatnonzero(found.right < np.minimum(topk, _eligible(rows)))
    if len(unsure):
        every = np.arange(u)
        found = _replaced(found, unsure, candidates_among(rows, unsure, every, every, found.index.shape[1], device))
    return Table(rows, found, device)


def _replaced(found: Candidates, at: Int64[np.ndarray, "s"], new: Candidates) -> Candidates:
    """The candidates with those of some rows exchanged."""
    merged = {}
    for field in fields(Candidates):
        merged[field.name] = getattr(found, field.name).copy()
        merged[field.name][at] = getattr(new, field.name)
    return Candidates(**merged)


def _eligible(rows: Rows) -> Int64[np.ndarray, "u"]:
    """How many rows can be neighbours of each row: itself too where it stands for several samples, but no row of its group."""
    u = len(rows)
    return np.full(u, u - (u == len(rows.label))) if rows.group is None else u - np.bincount(rows.group)[rows.group]


def _settled(rows: Rows, count: int, device: str) -> Candidates:
    """The candidates of the float32 tiles, and each row itself where it is eligible, with exact similarities in exact order."""
    every, kept = np.arange(len(rows)), most_similar(rows, count, device)
    own = rows.group is None and len(rows) < len(rows.label)
    index = np.sort(np.concatenate([kept.index, every[:, None]], axis=1) if own else kept.index, axis=1)
    absent = index < 0
    start = np.concatenate([[0], np.cumsum((~absent).sum(1))])
    similarity = np.full(index.shape, -np.inf)
    similarity[~absent] = similarities(rows, every, start, index[~absent])
    level = levels(rows, every, np.where(absent, 0, similarity))
    order = ranked(level, index, absent)
    index, level, similarity = (np.take_along_axis(one, order, 1) for one in (index, level, similarity))
    present = index >= 0
    complete = present.sum(1) == _eligible(rows)
    excess = (kept.limit + margin(rows)) * rows.unit**2 + rows.centre @ rows.centre  # no other row is more similar
    certain = present & (complete[:, None] | (level > levels(rows, every, np.where(complete, 0, excess))[:, None]))
    return Candidates(index, level, similarity, certain.sum(1), certain.sum(1))


def candidates_among(
    rows: Rows, left: Int64[np.ndarray, "b"], among: Int64[np.ndarray, "a"], rank: Int64[np.ndarray, "u"], count: int, device: str
) -> Candidates:
    """The `count` most similar of the rows `among` for each of `left`, itself included unless rows have groups; ties go to the lower rank.

    For rows with more near ties than candidates: all that float32 cannot tell from the last one are compared exactly.
    """
    index, level = np.full((len(left), count), -1), np.zeros((len(left), count), np.int64)
    similarity, sure, right = np.full((len(left), count), -np.inf), np.zeros(len(left), np.int64), np.zeros(len(left), np.int64)
    height = max(1, STRIP // len(among))
    for begin in range(0, len(left), height):
        part = left[begin : begin + height]
        strip = _strip(rows, part, among, device)
        last = np.partition(strip, -count, axis=1)[:, -count] if count < len(among) else np.full(len(part), -np.inf)
        near = (strip >= (last - 2 * margin(rows, part))[:, None]) & np.isfinite(strip)
        row, column = np.nonzero(near)
        start = np.concatenate([[0], np.cumsum(near.sum(1))])
        exact = similarities(rows, part, start, among[column])
        exact_level = levels(rows, part[row], exact)
        order = np.lexsort((rank[among[column]], -exact_level, row))
        place = np.arange(len(row)) - start[row]
        kept = place < count
        at, order_kept = (begin + row[kept], place[kept]), order[kept]
        index[at], level[at], similarity[at] = among[column[order_kept]], exact_level[order_kept], exact[order_kept]
        size = np.diff(start)
        best_dropped = np.full(len(part), -(2**62))
        dropped = np.flatnonzero(size > count)
        best_dropped[dropped] = exact_level[order[start[dropped] + count]]
        here = slice(begin, begin + len(part))
        right[here] = np.minimum(size, count)
        sure[here] = ((level[here] > best_dropped[:, None]) & (index[here] >= 0)).sum(1)
    return Candidates(index, level, similarity, sure, right)


def _strip(rows: Rows, left: Int64[np.ndarray, "b"], among: Int64[np.ndarray, "a"], device: str) -> np.ndarray:
    """float32 products of a few rows with many."""
    with exact_float32(device):
        block = centred(rows, left, device, np.empty((len(left), rows.x.shape[1]), np.float32))
        memory = np.empty((min(COLUMNS, len(among)), rows.x.shape[1]), np.float32)
        parts = [among[begin : begin + COLUMNS] for begin in range(0, len(among), COLUMNS)]
        return np.concatenate([products(rows, left, block, part, centred(rows, part, device, memory)) for part in parts], axis=1)
