"""Is position p the same token in every stream that is written for a step?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness import extract
from harness.adapters import Adapter
from harness.extract import StepSink
from harness.indices import Indices
from harness.pipeline import host
from harness.types import Measurement, Sample

__all__ = ["step_positions"]


def step_positions(adapter: Adapter, samples: Sequence[Sample], *, positions: str = "0,3,-1") -> Measurement:
    """Largest difference between the embedding and what enters block 0 at the asked positions, over the largest value: 0 where both are
    the same tokens. Between them a model does nothing.
    """
    points = tuple(map(adapter.resolve, extract.step_points("lm", [0], ["input"], embedding=True)))
    sink = StepSink(points, Indices.parse(positions), Path(), "pt", adapter.runtime.dtype, {}, {})
    batch = adapter.encode(samples)
    embedding, entering = (host(values).astype(np.float64) for values in adapter.capture(batch, points, sink.keep(batch)).values())
    shifted = int((np.abs(embedding - entering).max(2) > 0).sum())
    value = float(np.abs(embedding - entering).max() / np.abs(entering).max())
    return Measurement(value, detail=f"{shifted} of {embedding.shape[0] * embedding.shape[1]} tokens at positions {positions} are others")
