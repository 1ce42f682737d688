"""From candidates of distinct rows to the neighbours of the samples that share those rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from harness.metrics._knn_table import Candidates, Table, candidates_among

__all__ = ["Chosen", "selected"]


class Chosen(NamedTuple):
    """Neighbours of every sample and their similarities."""

    index: Int64[np.ndarray, "m k"]
    similarity: Float64[np.ndarray, "m k"]


class Members(NamedTuple):
    """The samples of every distinct row, ascending: `sample[start[row] : start[row] + size[row]]`."""

    sample: Int64[np.ndarray, "m"]
    start: Int64[np.ndarray, "u"]
    size: Int64[np.ndarray, "u"]


def selected(table: Table, label: Int64[np.ndarray, "m"], topk: int, *, whole: bool) -> Chosen:
    """The `topk` nearest of the samples whose distinct rows are `label`, ties to the lower sample.

    `whole` says that these are all samples in the order in which the table was made. Candidates suffice while `topk` samples share rows
    that are surely the best; other rows are compared with all that have samples.
    """
    size = np.bincount(label, minlength=len(table.rows))
    members = Members(np.argsort(label, kind="stable"), np.cumsum(size) - size, size)
    present, slot = np.unique(label, return_inverse=True)
    found = table.found
    counted = found.right if whole else found.sure
    index, similarity = _expanded(found.index[present], found.level[present], found.similarity[present], counted[present], members, topk + 1)
    chosen = _without_self(index[slot], similarity[slot])
    short = np.unique(slot[chosen.index[:, -1] < 0])
    if len(short):
        rank = np.full(len(table.rows), len(label))
        rank[present] = members.sample[members.start[present]]
        again = candidates_among(table.rows, present[short], present, rank, min(topk + 1, len(present)), table.device)
        index[short], similarity[short] = _expanded(again.index, again.level, again.similarity, again.right, members, topk + 1)
        chosen = _without_self(index[slot], similarity[slot])
    return chosen


def _expanded(
    index: Int64[np.ndarray, "b c"],
    level: Int64[np.ndarray, "b c"],
    similarity: Float64[np.ndarray, "b c"],
    counted: Int64[np.ndarray, "b"],
    members: Members,
    count: int,
) -> Chosen:
    """The first `count` samples of each row's candidates, -1 where there are fewer: higher level first, then lower sample."""
    b, c = index.shape
    contributed = np.where((np.arange(c) < counted[:, None]) & (index >= 0), np.minimum(members.size[index], count), 0)
    filled = np.cumsum(contributed, axis=1) >= count
    last = np.where(filled.any(1), level[np.arange(b), filled.argmax(1)] if c else 0, -(2**62))
    contributed[level < last[:, None]] = 0  # equal to the last: one of lower sample may go first
    row, column = np.nonzero(contributed)
    times = contributed[row, column]
    within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    row, column = np.repeat(row, times), np.repeat(column, times)
    sample = members.sample[members.start[index[row, column]] + within]
    if ((row[1:] == row[:-1]) & (sample[1:] < sample[:-1]) & (level[row[1:], column[1:]] == level[row[:-1], column[:-1]])).any():
        order = np.lexsort((sample, -level[row, column], row))
        column, sample = column[order], sample[order]
    total = np.bincount(row, minlength=b)
    place = np.arange(len(row)) - np.repeat(np.cumsum(total) - total, total)
    kept = place < count
    at = row[kept], place[kept]
    found = Chosen(np.full((b, count), -1), np.full((b, count), -np.inf))
    found.index[at], found.similarity[at] = sample[kept], similarity[row[kept], column[kept]]
    return found


def _without_self(index: Int64[np.ndarray, "m k1"], similarity: Float64[np.ndarray, "m k1"]) -> Chosen:
    """Drops each sample from its own list, or the last of the list where it is not there."""
    own = index == np.arange(len(index))[:, None]
    at = np.where(own.any(1), own.argmax(1), index.shape[1])
    kept = np.arange(index.shape[1] - 1) + (np.arange(index.shape[1] - 1) >= at[:, None])
    return Chosen(np.take_along_axis(index, kept, 1), np.take_along_axis(similarity, kept, 1))
