"""Are mean 0 and standard deviation 1 a property of the final LayerNorm, whatever the weights?"""

from __future__ import annotations

import numpy as np

from harness.adapters import Adapter
from harness.contract._compare import host
from harness.errors import UsageError
from harness.types import Measurement, Point, Recording

__all__ = ["normalised"]

TINY = 1e-3  # times the norm's largest weight: a channel below is all but closed and cannot be divided by its weight


def normalised(adapter: Adapter, recording: Recording, *, point: str) -> Measurement:
    """How far rows are from mean 0 and standard deviation 1 once the norm's weight and bias are undone: the worst over valid tokens.

    `control` is the same of the raw last block's rows, which no norm has seen. Raises UsageError for a norm that does not centre.
    """
    place = adapter.resolve(point)
    norm = adapter.final_norm(place)
    if norm.kind != "layer":
        raise UsageError("this norm does not centre its rows", where=f"{adapter.subject.id} {place}", got="RMSNorm", expected="LayerNorm")
    valid = host(recording.batch.tokens[place.stack].mask).astype(bool)
    rows = host(recording.values[place])[valid].astype(np.float64)
    raw = host(recording.values[adapter.resolve(Point(place.stack, "output", -1, place.step))])[valid].astype(np.float64)
    weight = host(norm.weight).astype(np.float64)
    open_ = np.abs(weight) > TINY * np.abs(weight).max()
    undone = (rows - (0 if norm.bias is None else host(norm.bias)))[:, open_] / weight[open_]
    detail = f"{len(rows)} rows as they are: mean {rows.mean():.3g}, standard deviation {rows.std():.3g}; {(~open_).sum()} of {len(weight)} channels closed"
    return Measurement(_off(undone), detail=detail, control=_off(raw))


def _off(rows: np.ndarray) -> float:
    return float(max(np.abs(rows.mean(1)).max(), np.abs(rows.std(1) - 1).max()))
