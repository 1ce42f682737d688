"""The store key of a feature set: all that could change a number in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import harness
from harness import registry
from harness.checkpoints import canonical_digest, file_digest
from harness.readers import Dataset, Stream
from harness.sources import module_digest
from harness.store import Key
from harness.types import Point, Runtime, Subject

__all__ = ["feature_key"]

LIBRARIES = ("torch", "transformers", "jax", "tokenizers", "numpy", "pillow", "vla-harness")
CODE = ("pooling.py", "pipeline.py", "extract/_rows.py")


def feature_key(
    subject: Subject, runtime: Runtime, dataset: Dataset | Stream, point: Point, pooling: str, fault: str | None = None
) -> Key:
    """The store key of one feature set: all that could change a number in it, rows in the order of the dataset."""
    return Key(
        subject=subject.id,
        weights=subject.weights.digest,
        adapter=canonical_digest([module_digest(registry.module("adapters", subject.family)), subject.options, _tokenizer(subject)]),
        capture=_capture_code(),
        dataset=dataset.digest,
        samples=dataset.selection_digest,
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


@lru_cache
def _capture_code() -> str:
    """Digest of the pooling and extraction code; the capture engine is part of each adapter's own digest."""
    return canonical_digest([file_digest(Path(harness.__file__).parent / name) for name in CODE])


@lru_cache
def _versions() -> Mapping[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:  # an optional part that this feature set cannot have used
            versions[library] = "absent"
    return versions
