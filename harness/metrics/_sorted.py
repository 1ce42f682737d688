"""Differences between the empirical distribution functions of two samples, exact, from one sort of the pooled rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["areas", "largest_gaps"]

FEATURES, SPLITS = 64, 16  # columns copied together; splits whose cumulated counts stay in cache
Array = np.ndarray


def areas(pooled: Float[Array, "n d"], labels: Bool[Array, "p n"]) -> Float[Array, "p d"]:
    """The integral of |F - G| for every split and feature: the 1-Wasserstein distance on the line, in the feature's unit.

    F is the distribution function of the labelled rows, G that of the others.
    """
    found, weights = np.empty((len(labels), pooled.shape[1])), _weights(labels)
    for feature, (order, widths) in enumerate(_lines(pooled)):
        for start in range(0, len(labels), SPLITS):
            found[start : start + SPLITS, feature] = _heights(weights[start : start + SPLITS], order) @ widths
    return found / (labels.sum(1) * (~labels).sum(1))[:, None]


def largest_gaps(pooled: Float[Array, "n d"], labels: Bool[Array, "p n"]) -> Float[Array, "p d"]:
    """The largest n m |F - G| for every split and feature, a whole number: the Kolmogorov-Smirnov statistic times n m."""
    found, weights = np.empty((len(labels), pooled.shape[1])), _weights(labels)
    for feature, (order, widths) in enumerate(_lines(pooled)):
        apart = widths > 0  # between tied values neither function is defined yet
        for start in range(0, len(labels), SPLITS):
            found[start : start + SPLITS, feature] = (_heights(weights[start : start + SPLITS], order) * apart).max(1)
    return found


def _weights(labels: Array) -> Array:
    """m for a labelled row and -n for another: their cumulated sum is n m (F - G), whole and so exact."""
    first = labels.sum(1, keepdims=True)
    return np.where(labels, labels.shape[1] - first, -first).astype(np.float64)


def _lines(pooled: Array) -> Iterator[tuple[Array, Array]]:
    """The order of each feature's values, and the widths of the steps between them."""
    for start in range(0, pooled.shape[1], FEATURES):
        for column in np.ascontiguousarray(pooled[:, start : start + FEATURES].T):
            order = np.argsort(column)
            yield order, np.diff(column[order].astype(np.float64))


def _heights(weights: Array, order: Array) -> Array:
    """n m |F - G| on each step, worked in place: these arrays are where the time goes."""
    found = np.take(weights, order, axis=1)
    np.cumsum(found, axis=1, out=found)
    return np.abs(found, out=found)[:, :-1]
