"""A running account of the columns of arrays, an episode at a time: ranges, and how much alike the rows of one episode are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Column", "Columns"]


@dataclass(frozen=True)
class Column:
    """One dimension over all rows; None for a column without a finite value. `constant` ones have one value only."""

    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    constant: bool
    not_finite: int


class Columns:
    """Of rows (t, d) added one episode after the other, in float64 and constant memory; values that are not finite are counted and left out."""

    def __init__(self, width: int) -> None:
        self.rows, self._bad = 0, np.zeros(width, np.int64)
        self._low, self._high = np.full(width, np.inf), np.full(width, -np.inf)
        self._n, self._mean, self._total, self._within, self._squares, self._episodes = np.zeros((6, width))

    def add(self, episode: np.ndarray) -> None:
        """The rows (t, d) of one episode. Sums of squares are about the mean, merged as in Chan, Golub and LeVeque, 1983."""
        x = np.asarray(episode, np.float64)
        finite = np.isfinite(x)
        n = finite.sum(axis=0)
        filled = np.where(finite, x, 0.0)
        mean = filled.sum(axis=0) / np.maximum(n, 1)
        within = (np.where(finite, filled - mean, 0.0) ** 2).sum(axis=0)
        self._low = np.minimum(self._low, np.where(finite, x, np.inf).min(axis=0))
        self._high = np.maximum(self._high, np.where(finite, x, -np.inf).max(axis=0))
        both = np.maximum(self._n + n, 1)
        gap = np.where(n > 0, mean - self._mean, 0.0)
        self._total = self._total + within + gap**2 * self._n * n / both
        self._mean = self._mean + gap * n / both
        self._within, self._squares, self._episodes = self._within + within, self._squares + n.astype(float) ** 2, self._episodes + (n > 0)
        self._n, self._bad, self.rows = self._n + n, self._bad + (~finite).sum(axis=0), self.rows + len(x)

    def columns(self) -> tuple[Column, ...]:
        """One per dimension; `std` is that of the population, in the unit of the values."""
        std = np.sqrt(self._total / np.maximum(self._n, 1))
        found = []
        for low, high, mean, spread, n, bad in zip(self._low, self._high, self._mean, std, self._n, self._bad, strict=True):
            numbers = [float(value) if n else None for value in (low, high, mean, spread)]
            found.append(Column(*numbers, constant=bool(low == high), not_finite=int(bad)))
        return tuple(found)

    def icc(self) -> tuple[float | None, ...]:
        """Intraclass correlation of each dimension by episode, 0 to 1; None where it is undefined: a constant, or no two rows of one episode.

        The one-way analysis of variance estimator, (MSB - MSW) / (MSB + (n0 - 1) MSW) with n0 for episodes of unequal length
        (Fisher 1925; Donner 1986, Int. Stat. Rev. 54); below 0 it is set to 0.
        """
        between, within_df = self._episodes - 1, self._n - self._episodes
        defined = (between > 0) & (within_df > 0) & (self._total > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            msb, msw = (self._total - self._within) / between, self._within / within_df
            n0 = (self._n - self._squares / self._n) / between
            rho = np.clip((msb - msw) / (msb + (n0 - 1) * msw), 0, 1)
        return tuple(float(value) if ok and np.isfinite(value) else None for value, ok in zip(rho, defined, strict=True))
