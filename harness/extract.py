"""Reader to features: encode, capture, pool on the device, store. What the store already has is never computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np

from harness import pooling as poolings
from harness import registry
from harness.adapters import Adapter
from harness.checkpoints import canonical_digest, file_digest
from harness.errors import UsageError
from harness.readers import Dataset
from harness.sources import module_digest
from harness.store import Key, Store
from harness.types import Array, Batch, Features, Point, Progress, Runtime, Sample, Subject

__all__ = ["extract", "feature_key", "pooled"]

LIBRARIES = ("torch", "transformers", "jax", "tokenizers", "numpy", "pillow", "vla-harness")


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

    Samples run in batches of similar length, so little padding is computed.
    """
    if not samples:
        raise UsageError("there are no samples to take features of", where=adapter.subject.id)
    points = [adapter.resolve(point) for point in points]
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].instruction))
    rows: dict[Point, list[np.ndarray]] = {point: [] for point in points}
    for start in range(0, len(order), batch_size):
        batch = adapter.encode([samples[index] for index in order[start : start + batch_size]])
        for point, block in adapter.capture(batch, points, keeper(batch, points, pooling, adapter.runtime.device)).items():
            rows[point].append(block.cpu().numpy() if hasattr(block, "cpu") else np.asarray(block))
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order), adapter.subject.id)
    return {point: in_order(blocks, order) for point, blocks in rows.items()}


def in_order(blocks: Sequence[np.ndarray], order: Sequence[int]) -> np.ndarray:
    """The rows of all blocks, row `i` of which belongs to sample `order[i]`, in the order of the samples."""
    return np.concatenate(blocks)[np.argsort(order)]


def keeper(batch: Batch, points: Iterable[Point], pooling: str, device: str) -> poolings.Pooler:
    """The pooling of each stack of `points` for this batch, its weights on the device."""
    stacks = {point.stack for point in points}
    return poolings.Pooler({stack: _to(poolings.token_weights(pooling, batch.tokens[stack]), device) for stack in stacks})


def feature_key(subject: Subject, runtime: Runtime, dataset: Dataset, point: Point, pooling: str, fault: str | None = None) -> Key:
    """The store key of one feature set: all that could change a number in it."""
    return Key(
        subject=subject.id,
        weights=subject.weights.digest,
        adapter=canonical_digest([module_digest(registry.module("adapters", subject.family)), subject.options, _tokenizer(subject)]),
        capture=_capture_code(),
        dataset=dataset.digest,
        samples=canonical_digest([sample.id for sample in dataset.samples]),
        point=str(point),
        pooling=pooling,
        dtype=runtime.dtype,
        attention=runtime.attention,
        device_class=runtime.device_class,
        versions=_versions(),
        fault=fault,
    )


def _tokenizer(subject: Subject) -> str | None:
    """Digest of a tokenizer that is not part of the weights' own directory."""
    return None if subject.tokenizer is None else file_digest(subject.tokenizer / "tokenizer.json")


def _to(weights: Array, device: str) -> Array:
    return weights.to(device) if hasattr(weights, "to") else weights


@lru_cache
def _capture_code() -> str:
    """Digest of the pooling and extraction code; the capture engine is part of each adapter's own digest."""
    folder = Path(__file__).parent
    return canonical_digest([file_digest(folder / name) for name in ("pooling.py", "extract.py")])


@lru_cache
def _versions() -> Mapping[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:  # an optional part that this feature set cannot have used
            versions[library] = "absent"
    return versions
