"""Equal shares as far as they last, and places spread evenly: the arithmetic of a plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["places", "shares"]


def shares(limits: Sequence[int], n: int, random: np.random.Generator) -> np.ndarray:
    """How many of n each gets, (len(limits),) int64: at most its limit, and the same for all that have not reached theirs.

    What cannot be divided goes one each to some of those, drawn by `random`. The sum is n, or that of the limits where they end before.
    """
    limit = np.asarray(limits, np.int64)
    low, high = 0, int(limit.max(initial=0))  # the largest level at which nobody gets more than there is
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(limit, middle).sum() <= n else (low, middle - 1)
    given = np.minimum(limit, low)
    open_ones = np.flatnonzero(limit > low)
    rest = min(max(0, n - int(given.sum())), len(open_ones))
    given[random.choice(open_ones, size=rest, replace=False)] += 1
    return given


def places(counts: Sequence[int], chosen: Sequence[int], random: np.random.Generator) -> list[np.ndarray]:
    """Which of its `counts` samples each episode gives, sorted and distinct: `chosen` of them at even distances.

    Where they begin differs evenly from episode to episode, so that one sample of each of many episodes still covers early and late steps.
    """
    starts = (random.permutation(len(counts)) + random.random(len(counts))) / max(1, len(counts))
    found = []
    for count, k, start in zip(counts, chosen, starts, strict=True):
        first = min(count - 1, int(start * count))  # in k-ths of a sample: integers keep neighbours from falling together
        found.append((first + np.arange(k) * count) // max(1, k))
    return found
