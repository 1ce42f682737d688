"""Is a sample's row the same alone as among others, and does it stand in its own place?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.extract import pooled
from harness.types import Measurement, Point, Sample

__all__ = ["batching"]


def batching(adapter: Adapter, samples: Sequence[Sample], *, pooling: str = "mean") -> Measurement:
    """Largest relative difference, over the last point of every stack, between rows extracted together and one by one."""
    points = list({point.stack: point for point in adapter.clauses}.values())
    together = pooled(adapter, samples, points, pooling=pooling, batch_size=len(samples))
    alone = [pooled(adapter, [sample], points, pooling=pooling) for sample in samples]
    found = {point: relative_difference(together[point], np.concatenate([rows[point] for rows in alone])) for point in points}
    worst: Point = max(found, key=found.__getitem__)
    return Measurement(found[worst], detail=f"{len(samples)} samples of different length, {worst}")
