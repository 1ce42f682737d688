"""Reader to features: encode, capture, pool on the device, store. What the store already has is never computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.adapters import Adapter
from harness.checkpoints import canonical_digest
from harness.errors import UsageError
from harness.extract._features import FeatureSink, feature_sink
from harness.extract._job import Done, Job, Sink, Summary, run, work
from harness.extract._keys import feature_key
from harness.extract._pack import write_feats
from harness.extract._rows import keeper, pooled
from harness.extract._steps import StepSink, step_points
from harness.readers import Dataset
from harness.store import Store
from harness.types import Features, Point, Progress, Runtime, Subject

__all__ = ["Done", "FeatureSink", "Job", "Sink", "StepSink", "Summary", "extract", "feature_key", "feature_sink", "keeper", "pooled", "run", "step_points", "work", "write_feats"]


def extract(
    subject: Subject,
    adapter: Callable[[], Adapter],
    dataset: Dataset,
    points: Sequence[Point],
    *,
    store: Store,
    runtime: Runtime,
    pooling: str = "mean",
    batch_size: int = 16,
    fault: str | None = None,
    progress: Progress | None = None,
) -> dict[Point, Features]:
    """Features (n, d) float32 of every point, rows in the order of the dataset; from the store where it has them.

    `adapter` is called only when something is missing. One process extracts, others wait on its lock and then read.
    """
    if unresolved := [str(point) for point in points if point.layer is not None and point.layer < 0]:
        raise UsageError("layers counted from the end must be resolved first", got=", ".join(unresolved), next="adapter.resolve(point)")
    keys = {point: feature_key(subject, runtime, dataset, point, pooling, fault) for point in points}
    found = {point: features for point, key in keys.items() if (features := store.read(key)) is not None}
    if len(found) == len(keys):
        return found
    shared = canonical_digest([str(replace(next(iter(keys.values())), point="", pooling=""))])[:32]
    with store.lock(shared):
        for point in keys.keys() - found.keys():
            if (features := store.read(keys[point])) is not None:  # another process was faster
                found[point] = features
        absent = [point for point in keys if point not in found]
        if absent:
            rows = pooled(adapter(), dataset.samples, absent, pooling=pooling, batch_size=batch_size, progress=progress)
            ids = [sample.id for sample in dataset.samples]
            found.update({point: store.write(keys[point], rows[point], ids) for point in absent})
    return {point: found[point] for point in keys}
