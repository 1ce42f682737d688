"""From a dataset card to samples: runs the card's reader and names what was read by one digest."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from harness import registry
from harness.cards import dataset_card
from harness.checkpoints import canonical_digest, file_digest
from harness.errors import DamagedError, UsageError
from harness.sources import module_digest
from harness.types import Sample

__all__ = ["Dataset", "read"]


class Dataset(NamedTuple):
    """Samples in their fixed order; `digest` covers the card, the reader's code and the bytes of its file."""

    name: str
    digest: str
    samples: tuple[Sample, ...]


@lru_cache
def read(name: str) -> Dataset:
    """Every sample of dataset `name`. Raises UnknownNameError, DamagedError, UsageError when ids repeat."""
    card = dataset_card(name)
    path = (card.folder / card.path).resolve() if card.path else None
    if path is not None and not path.exists():
        raise DamagedError("a dataset card points to a file that is not there", where=f"{name}, field path", got=path)
    samples = tuple(registry.load("datasets", card.reader)(path, **card.options))
    if len({sample.id for sample in samples}) != len(samples):
        raise UsageError("sample ids repeat", where=name, got=f"{len(samples)} samples", expected="one id for each")
    described = [card.reader, card.options, path and file_digest(path), module_digest(registry.module("datasets", card.reader))]
    return Dataset(name, canonical_digest(described), samples)
