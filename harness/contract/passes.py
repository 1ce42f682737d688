"""How often does a stack run in one forward?"""

from __future__ import annotations

from collections import Counter

from harness.adapters import Adapter
from harness.types import Array, Measurement, Point, Recording

__all__ = ["passes"]


def passes(adapter: Adapter, recording: Recording, *, stack: str) -> Measurement:
    """How many times the first block of a stack put something out while every point of the model was captured.

    A torch module that runs again where its clause names no call raises ContractError, so one pass is one pass.
    """
    seen: Counter[Point] = Counter()

    def count(point: Point, value: Array) -> Array:
        seen[point] += 1
        return value[:, :1]

    adapter.capture(recording.batch, adapter.clauses, count)
    runs = {point: number for point, number in seen.items() if (point.stack, point.stream, point.layer) == (stack, "output", 0)}
    return Measurement(sum(runs.values()), detail=", ".join(map(str, runs)))
