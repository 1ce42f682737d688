"""Cosine of each row with the same row of the other set: how far every sample has turned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError
from harness.metrics._base import paired, require_pair

__all__ = ["cosine"]


class Cosines(NamedTuple):
    """Mean over rows, in [-1, 1]; quantiles over rows; the least, and the row it is of; how many rows are zero in either set."""

    value: float
    q05: float
    q50: float
    q95: float
    least: float
    at: int
    zero: int


@paired(identical=1.0)
def cosine(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> Cosines:
    """Mean cosine of paired rows, in [-1, 1]; features as they are, so a shared mean direction raises it whatever the samples say.

    A row of zeros has no direction: its cosine counts as 1 where the other is zero too, and else as 0; `zero` tells how many.
    Half precision is promoted to float64. Raises UsageError for rows that do not pair up or differ in width.
    """
    require_pair(x, y, "paired", least=1)
    if x.shape[1] != y.shape[1]:
        raise UsageError("a cosine needs the same features twice", got=f"widths {x.shape[1]} and {y.shape[1]}", expected="equal widths", next="take cka")
    units, zeros = zip(*map(_unit, (x, y)), strict=True)
    cosines = np.clip(np.einsum("nd,nd->n", *units), -1, 1)
    cosines = np.where(zeros[0] & zeros[1], 1.0, cosines)
    q05, q50, q95 = np.quantile(cosines, (0.05, 0.5, 0.95))
    at = int(cosines.argmin())
    return Cosines(float(cosines.mean()), float(q05), float(q50), float(q95), float(cosines[at]), at, int((zeros[0] | zeros[1]).sum()))


def _unit(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n d"], np.ndarray]:
    """Rows of length 1, zero rows left as they are, and which those are."""
    values = x.astype(np.float64)
    largest = np.abs(values).max(1, keepdims=True)
    zero = largest[:, 0] == 0
    values = values / np.where(largest == 0, 1, largest)  # so that no square runs over or under
    return values / np.where(zero[:, None], 1, np.linalg.norm(values, axis=1, keepdims=True)), zero
