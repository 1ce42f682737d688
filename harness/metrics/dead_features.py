"""Dead features: columns that say nothing about any sample, by index."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError
from harness.metrics._base import require_pair

__all__ = ["dead_features"]


class Dead(NamedTuple):
    """How many features are constant or never active, their share in [0, 1], and the indices of each kind in rising order."""

    value: float
    share: float
    constant: tuple[int, ...]
    inactive: tuple[int, ...]


def dead_features(x: Float[np.ndarray, "n d"], *, threshold: float = 0.0) -> Dead:
    """Number of features, from 0 to d, that are constant over all rows (exactly) or whose magnitude never exceeds `threshold`.

    With the default a feature is inactive that is zero in every row, as after a ReLU that never opens; such a one is constant too and
    counts once. A few rows leave features constant that more rows would move: compare at equal n.
    Raises UsageError for fewer than two rows, values that are not finite, or a negative threshold.
    """
    if not threshold >= 0:
        raise UsageError("a magnitude is never negative", got=f"threshold {threshold}", expected="0 or more")
    require_pair(x, x, "two_sample", least=2)
    low, high = x.min(0), x.max(0)
    constant = low == high
    inactive = np.maximum(-low.astype(np.float64), high) <= threshold
    dead = int((constant | inactive).sum())
    return Dead(float(dead), dead / x.shape[1], tuple(np.flatnonzero(constant).tolist()), tuple(np.flatnonzero(inactive).tolist()))
