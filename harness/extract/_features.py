"""Pooled features as a sink: every point is an entry of the store, written shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from harness.adapters import Adapter
from harness.checkpoints import canonical_digest
from harness.extract._job import Done, Sink
from harness.extract._keys import feature_key
from harness.extract._rows import keeper
from harness.pipeline import Block, Keep
from harness.readers import Stream
from harness.store import Key, Store, Writer
from harness.types import Batch, Broken, Point

__all__ = ["FeatureSink", "feature_sink"]


@final
@dataclass(frozen=True)
class FeatureSink(Sink):
    """Rows (n, width) float32 of every point under its key in the store at `root`."""

    points: tuple[Point, ...]
    keys: Mapping[Point, Key]
    widths: Mapping[Point, int]
    root: str
    pooling: str
    device: str

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_writers"}

    @property
    def destination(self) -> str:
        return self.root

    @cached_property
    def _writers(self) -> dict[Point, Writer]:
        store = Store(self.root)
        return {point: store.writer(self.keys[point]) for point in self.points}

    def keep(self, batch: Batch) -> Keep:
        return keeper(batch, self.points, self.pooling, self.device)

    def lock(self) -> AbstractContextManager[None]:
        return Store(self.root).lock(canonical_digest(sorted(key.digest for key in self.keys.values()))[:32])

    def found(self, stream: Stream, number: int) -> Done | None:
        for writer in self._writers.values():
            if (shard := writer.read(number)) is None:
                return None
        return self._done(number, len(shard.sample_ids), shard.broken)  # as every point has them

    def put(self, block: Block) -> Done:
        for point, writer in self._writers.items():
            values = block.rows.get(point, np.zeros((0, self.widths[point]), np.float32))
            writer.put(block.shard, values, block.sample_ids, block.broken)
        return self._done(block.shard, len(block.sample_ids), block.broken)

    def _done(self, number: int, rows: int, broken: tuple[Broken, ...]) -> Done:
        return Done(number, rows + len(broken), broken, {point: writer.told(number) for point, writer in self._writers.items()})

    def finish(self, stream: Stream, done: Sequence[Done]) -> Mapping[str, str]:
        for point, writer in self._writers.items():
            for shard in done:
                writer.accept(shard.shard, shard.told[point])
            writer.finish(len(done))
        return {str(point): key.digest for point, key in self.keys.items()}


def feature_sink(adapter: Adapter, stream: Stream, points: Sequence[Point], *, root: str, pooling: str = "mean") -> FeatureSink:
    """The sink of these points of a loaded model. Raises UnknownNameError for a point the model has not."""
    resolved, runtime = tuple(adapter.resolve(point) for point in points), adapter.runtime
    keys = {point: feature_key(adapter.subject, runtime, stream, point, pooling) for point in resolved}
    return FeatureSink(resolved, keys, {point: adapter.clauses[point].width for point in resolved}, root, pooling, runtime.device)
