"""Samples to pooled rows on one machine, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from harness import pooling as poolings
from harness.adapters import Adapter
from harness.errors import UsageError
from harness.pipeline import blocks
from harness.types import Array, Batch, Point, Progress, Sample

__all__ = ["keeper", "pooled"]


def pooled(
    adapter: Adapter,
    samples: Sequence[Sample],
    points: Iterable[Point],
    *,
    pooling: str = "mean",
    batch_size: int = 16,
    progress: Progress | None = None,
) -> dict[Point, np.ndarray]:
    """Pooled rows (n, d) float32 of every point in the order of `samples`; nothing token-level outlives its layer.

    Samples run in batches of similar length, so little padding is computed. Raises UsageError for a sample that cannot be encoded.
    """
    if not samples:
        raise UsageError("there are no samples to take features of", where=adapter.subject.id)
    points, label = [adapter.resolve(point) for point in points], adapter.subject.id
    keep = partial(keeper, points=points, pooling=pooling, device=adapter.runtime.device)
    told = None if progress is None else lambda done: progress(done, len(samples), label)
    (block,) = blocks(adapter, [(0, samples)], points, keep, batch_size=batch_size, finite=False, progress=told)
    if block.broken:
        raise UsageError(block.broken[0].reason)
    return dict(block.rows)


def keeper(batch: Batch, points: Iterable[Point], pooling: str, device: str) -> poolings.Pooler:
    """The pooling of each stack of `points` for this batch, its weights on the device."""
    stacks = {point.stack for point in points}
    return poolings.Pooler({stack: _to(poolings.token_weights(pooling, batch.tokens[stack]), device) for stack in stacks})


def _to(weights: Array, device: str) -> Array:
    return weights.to(device) if hasattr(weights, "to") else weights
