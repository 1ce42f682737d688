"""Outlier features: massive activations by row and channel, and channels that are large in many rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError
from harness.metrics._base import require_pair

__all__ = ["outlier_features"]


class Entry(NamedTuple):
    """One activation: where it is, its value, and its magnitude over the median one (infinity where that is 0)."""

    row: int
    channel: int
    value: float
    ratio: float


class Channel(NamedTuple):
    """One channel: the share of rows in [0, 1] where it is an outlier, and its largest magnitude."""

    channel: int
    share: float
    largest: float


class Outliers(NamedTuple):
    """Number of massive activations, the largest entries in falling order (massive or not), systematic channels, and the median magnitude."""

    value: float
    entries: tuple[Entry, ...]
    channels: tuple[Channel, ...]
    median: float


def outlier_features(
    x: Float[np.ndarray, "t d"], *, magnitude: float = 100.0, ratio: float = 1000.0, outlier: float = 6.0, share: float = 0.06, top: int = 10
) -> Outliers:
    """Number of massive activations: entries above `magnitude` and at least `ratio` times the median magnitude of all entries.

    Sun et al. (2024) define them within one hidden state, so give the tokens of one sequence at one layer as rows. `entries` are the
    `top` largest, so that a near miss is seen. `channels` are those of magnitude `outlier` or more in at least `share` of the rows, the
    criterion of Dettmers et al. (2022) for one layer; they ask it of a quarter of all layers, which the caller counts. Both are in the
    units of the features: after a norm or a rescaling other thresholds apply.
    Raises UsageError for values that are not finite, or an option outside its range.
    """
    if not 0 < share <= 1:
        raise UsageError("share is out of range", got=share, expected="a share of rows in (0, 1]")
    for name, given in (("magnitude", magnitude), ("ratio", ratio), ("outlier", outlier), ("top", top)):
        if not given >= 0:
            raise UsageError(f"{name} is out of range", got=given, expected="0 or more")
    require_pair(x, x, "two_sample", least=1)
    sizes = np.abs(x.astype(np.float64))
    median = float(np.median(sizes))
    massive = (sizes > magnitude) & (sizes >= ratio * median)
    return Outliers(float(massive.sum()), _largest(x, sizes, median, top), _systematic(sizes, outlier, share), median)


def _largest(x: Float[np.ndarray, "t d"], sizes: Float[np.ndarray, "t d"], median: float, top: int) -> tuple[Entry, ...]:
    """The `top` largest entries; of equal ones the first in row and channel order."""
    top = min(top, sizes.size)
    if top == 0:
        return ()
    candidates = np.flatnonzero(sizes >= np.partition(sizes, sizes.size - top, axis=None)[sizes.size - top])
    chosen = candidates[np.argsort(-sizes.ravel()[candidates], kind="stable")][:top]
    found = []
    for row, channel in zip(*np.unravel_index(chosen, sizes.shape), strict=True):
        size = float(sizes[row, channel])
        found.append(Entry(int(row), int(channel), float(x[row, channel]), size / median if median > 0 else float("inf")))
    return tuple(found)


def _systematic(sizes: Float[np.ndarray, "t d"], outlier: float, share: float) -> tuple[Channel, ...]:
    """Channels that are outliers in enough rows, the most frequent first, then the largest."""
    shares, largest = (sizes >= outlier).mean(0), sizes.max(0)
    found = [Channel(int(channel), float(shares[channel]), float(largest[channel])) for channel in np.flatnonzero(shares >= share)]
    return tuple(sorted(found, key=lambda channel: (-channel.share, -channel.largest, channel.channel)))
