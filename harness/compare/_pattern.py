"""What one simple change would explain of a move: a vector added, a factor, the same geometry in another basis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Pattern", "pattern"]

ANOTHER_BASIS, SAME_GEOMETRY, SAME_UNIT = 0.5, 0.99, 0.99  # relative change above which a basis is suspected, CKA, correlation of a unit and its partner
MOST_UNITS, BLOCK = 0.9, 512  # share of the units that have a partner when units are permuted; columns at a time
EXPLAINS = 0.9  # of the squared change, to be named


class Pattern(NamedTuple):
    """Shares in [0, 1] of the squared change that one vector added to every row, or one factor on every row, explain alone; how the basis changed."""

    by_shift: float
    by_scale: float
    basis: str | None

    def __str__(self) -> str:
        if self.basis is not None:
            return f"the geometry is the same in another basis ({self.basis})"
        if max(self.by_shift, self.by_scale) <= EXPLAINS:
            return ""
        name, share = ("one vector added to every sample", self.by_shift) if self.by_shift >= self.by_scale else ("one factor on every sample", self.by_scale)
        return f"{name} explains {share:.4g} of the squared change"


def pattern(x: np.ndarray, y: np.ndarray, *, change: float, geometry: float | None) -> Pattern:
    """Of rows that moved by `change` of their spread and keep a `geometry` (CKA); nothing where nothing moved."""
    left, right = x.astype(np.float64), y.astype(np.float64)
    whole = float(((right - left) ** 2).sum())
    if whole == 0:
        return Pattern(0.0, 0.0, None)
    by_shift = len(left) * float(((right - left).mean(0) ** 2).sum()) / whole
    own = float((left**2).sum())
    left_over = float((right**2).sum()) - float((left * right).sum()) ** 2 / own if own else whole
    turned = geometry is not None and geometry > SAME_GEOMETRY and change > ANOTHER_BASIS
    return Pattern(by_shift, float(np.clip(1 - left_over / whole, 0, 1)), _basis(left, right) if turned else None)


def _basis(x: np.ndarray, y: np.ndarray) -> str | None:
    """How a basis differs whose geometry is the same: its units are permuted when nearly all have a partner elsewhere, else it is rotated."""
    left, right = (_standardised(rows) for rows in (x, y))
    width = left.shape[1]
    partners, best = np.empty(width, int), np.empty(width)
    for start in range(0, width, BLOCK):
        products = np.abs(left[:, start : start + BLOCK].T @ right) / len(left)
        partners[start : start + BLOCK], best[start : start + BLOCK] = products.argmax(1), products.max(1)
    alive = left.any(0)
    if (partners == np.arange(width))[alive].mean() > 1 / 2:
        return None
    return "units permuted" if (best[alive] > SAME_UNIT).mean() > MOST_UNITS else "rotated"


def _standardised(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(0)
    deviation = centred.std(0)
    return centred / np.where(deviation == 0, 1, deviation)
