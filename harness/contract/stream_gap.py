"""Does a position mean the same token in two streams?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.types import Batch, Measurement, Point

__all__ = ["stream_gap"]


def stream_gap(adapter: Adapter, batch: Batch, *, of: str, against: str) -> Measurement:
    """How many positions longer the sequence of point `of` is than that of `against`; 0 when positions correspond."""
    first, second = Point.parse(of), Point.parse(against)
    captured = adapter.capture(batch, [first, second])
    lengths = captured[first].shape[1], captured[second].shape[1]
    return Measurement(lengths[0] - lengths[1], detail=f"{of} has {lengths[0]} positions, {against} has {lengths[1]}")
