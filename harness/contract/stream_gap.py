"""Does a position mean the same token in two streams?"""

from __future__ import annotations

from harness.types import Measurement, Point, Recording

__all__ = ["stream_gap"]


def stream_gap(recording: Recording, *, of: str, against: str) -> Measurement:
    """How many positions longer the sequence of point `of` is than that of `against`; 0 when positions correspond."""
    lengths = [recording.values[Point.parse(point)].shape[1] for point in (of, against)]
    return Measurement(lengths[0] - lengths[1], detail=f"{of} has {lengths[0]} positions, {against} has {lengths[1]}")
