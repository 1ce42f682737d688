"""Does the same batch give the same activations twice?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Measurement, Point, Recording

__all__ = ["determinism"]


def determinism(adapter: Adapter, recording: Recording) -> Measurement:
    """Largest relative difference, over all points, between two captures of one batch; 0 is bitwise equal."""
    first, second = recording.values, adapter.capture(recording.batch, adapter.clauses)
    found = {point: relative_difference(first[point], second[point]) for point in first}
    worst: Point = max(found, key=found.__getitem__)
    return Measurement(found[worst], detail=f"worst of {len(found)} points: {worst}")
