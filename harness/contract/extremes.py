"""What the largest value and the dead features of a feature set say, and what they owe to the number of samples."""

from __future__ import annotations

import numpy as np

from harness.errors import UnknownNameError
from harness.metrics.dead_features import dead_features
from harness.types import Features, Measurement

__all__ = ["extremes"]


def extremes(found: Features, *, n: int, of: str) -> Measurement:
    """Of the first `n` rows: `growth`, their largest value over the median of the single rows' largest values, at least 1, or `dead`,
    how many features are constant. Raises UnknownNameError.
    """
    rows = found.values[:n].astype(np.float64)
    alone = float(np.median(rows.max(1)))
    detail = f"largest of {len(rows)} samples {rows.max():.4g}, of a single one {alone:.4g} (median)"
    if of == "growth":
        return Measurement(float(rows.max()) / alone, detail=detail, control=1.0)
    if of == "dead":
        return Measurement(int(dead_features(rows).value), detail=f"{rows.shape[1]} features, {len(rows)} samples")
    raise UnknownNameError("property of extremes", of, ("growth", "dead"))
