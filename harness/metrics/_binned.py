"""Shares of two samples in shared quantile bins, for divergences between distributions known by their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from harness.errors import UsageError

__all__ = ["Shares", "counts", "edges", "pooled_divergences", "shares"]

SPLITS = 64  # whose counts are held together


class Shares(NamedTuple):
    """Smoothed shares of each bin and feature, summing to 1 over the bins; 0 in both where a bin is empty in both."""

    x: Float[np.ndarray, "*p bins d"]
    y: Float[np.ndarray, "*p bins d"]


def edges(rows: Float[np.ndarray, "n d"], *, bins: int) -> Float[np.ndarray, "edges d"]:
    """Upper ends of all bins but the last, between which each of `bins` bins holds equally many rows; the outer bins are open.

    A value so common that several edges fall on it gets a bin of its own, so that a feature constant in the accepted sample
    shows movement in both directions. Raises UsageError for fewer than two bins.
    """
    if bins < 2:
        raise UsageError("there is no distribution to compare", got=f"{bins=}", expected="at least 2")
    found = np.quantile(rows, np.arange(1, bins) / bins, axis=0, method="inverted_cdf")
    none = np.zeros((1, found.shape[1]), bool)
    again = found[1:] == found[:-1]
    opens = np.vstack([again, none]) & ~np.vstack([none, again])
    return np.where(opens, np.nextafter(found, -np.inf, dtype=found.dtype), found)


def counts(rows: Float[np.ndarray, "n d"], ends: Float[np.ndarray, "edges d"]) -> Integer[np.ndarray, "bins d"]:
    """How many rows fall into each bin."""
    return np.diff([(rows <= end).sum(0) for end in ends], axis=0, prepend=0, append=len(rows))


def pooled_divergences(
    pooled: Float[np.ndarray, "n d"],
    labels: Bool[np.ndarray, "p n"],
    of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    bins: int,
    smoothing: float,
) -> Float[np.ndarray, "p d"]:
    """`of` the shares of the labelled and of the other rows, for every split, in bins that the pooled rows fill equally.

    Raises UsageError for fewer than two bins or negative smoothing.
    """
    ends = edges(pooled, bins=bins)
    parts = [labels[start : start + SPLITS] for start in range(0, len(labels), SPLITS)]
    return np.concatenate([of(*shares(*(_of_first(pooled, side, ends) for side in (part, ~part)), smoothing=smoothing)) for part in parts])


def _of_first(pooled: np.ndarray, labels: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Counts (p, bins, d) of the labelled rows; float32 products hold whole numbers below 2^24 exactly."""
    chosen = labels.astype(np.float32)
    below = np.stack([chosen @ (pooled <= end).astype(np.float32) for end in ends], 1).astype(np.float64)
    every = np.broadcast_to(labels.sum(1)[:, None, None], (len(labels), 1, pooled.shape[1]))
    return np.diff(np.concatenate([below, every], 1), axis=1, prepend=0)


def shares(x: np.ndarray, y: np.ndarray, *, smoothing: float) -> Shares:
    """Counts (*p, bins, d) as shares; `smoothing` is added to each count of a bin that is used. Raises UsageError if it is negative."""
    if not smoothing >= 0:
        raise UsageError("counts cannot be smoothed by less than nothing", got=f"{smoothing=}", expected="at least 0")
    used = x + y > 0
    smoothed = (np.where(used, each + smoothing, 0.0) for each in (x, y))
    return Shares(*(each / each.sum(-2, keepdims=True) for each in smoothed))
