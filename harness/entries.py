"""One entry of the store: the key that names it, and writing it shard by shard."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from blake3 import blake3

from harness.checkpoints import canonical_digest
from harness.errors import DamagedError, UsageError
from harness.shards import Shard, packed, unpacked
from harness.storage import Storage
from harness.types import Broken

__all__ = ["Key", "StoreWarning", "Writer", "folder_of", "require_rows"]


class StoreWarning(UserWarning):
    """An entry was unusable and is being recomputed."""


@dataclass(frozen=True)
class Key:
    """Everything that determines a feature set. Two sets with equal keys are the same numbers on the same device class."""

    subject: str
    weights: str
    adapter: str
    capture: str
    dataset: str
    samples: str
    point: str
    pooling: str
    dtype: str
    attention: str
    device_class: str
    versions: Mapping[str, str]
    fault: str | None = None

    @property
    def digest(self) -> str:
        """32 hex digits that name the entry."""
        return canonical_digest(asdict(self))[:32]


@final
class Writer:
    """One entry on its way: its shards may be put in any order, by any process; `finish` makes it an entry.

    Equal shards are equal bytes, so a run that was interrupted and went on leaves what an uninterrupted one leaves.
    """

    def __init__(self, files: Storage, root: Path | str, key: Key, written: Callable[[str], object]) -> None:
        self.files, self.root, self.key, self._written = files, root, key, written
        self._told: dict[int, Mapping[str, Any]] = {}
        self._fresh = False

    def read(self, number: int) -> Shard | None:
        """A whole shard that is there already; a damaged one is told with a warning, and is none."""
        name = self._name(number)
        if self.files.size(name) is None:
            return None
        data = self.files.read(name)
        try:
            shard = unpacked(data, f"{self.root}/{name}")
        except DamagedError as error:
            warnings.warn(StoreWarning(f"{error}\n  it is computed again now"), stacklevel=2)
            return None
        self._told[number] = _told(name, data, shard)
        return shard

    def told(self, number: int) -> Mapping[str, Any]:
        """What the entry will say of a shard that was read, put or accepted."""
        return self._told[number]

    def accept(self, number: int, told: Mapping[str, Any]) -> None:
        """Takes note of a shard that another process put there, with what is `told` of it there."""
        self._told[number] = told

    def put(self, number: int, values: np.ndarray, sample_ids: Sequence[str], broken: Sequence[Broken] = ()) -> None:
        """Stores a shard's rows (n, d) float32, and the records that gave none, in one file. Raises UsageError, OSError."""
        require_rows(values, sample_ids, self.key)
        shard = Shard(values, tuple(sample_ids), tuple(broken))
        data = packed(shard)
        self.files.write(self._name(number), data)
        self._told[number], self._fresh = _told(self._name(number), data, shard), True

    def finish(self, count: int) -> None:
        """Makes the shards 0 to `count` - 1 an entry, in their order. Raises UsageError when one is missing or ids repeat."""
        if missing := [number for number in range(count) if number not in self._told and self.read(number) is None]:
            raise UsageError("an entry is not complete", where=self.key.digest, got=f"no shard {missing[0]}", expected=f"{count} shards")
        told = [self._told[number] for number in range(count)]
        width = max((shard["shape"][1] for shard in told), default=0)
        entry = {
            "key": self.key.digest,
            "parts": asdict(self.key),
            "shape": [sum(shard["shape"][0] for shard in told), width],
            "dtype": "float32",
            "broken": sum(shard["broken"] for shard in told),
            "shards": [{name: shard[name] for name in ("name", "bytes", "blake3")} for shard in told],
        }
        entry["blake3"] = canonical_digest(entry)
        data, name = json.dumps(entry, indent=1).encode(), f"{folder_of(self.key.digest)}/entry.json"
        if self._fresh or self.files.size(name) is None or self.files.read(name) != data:
            self.files.write(name, data)
            self._written(self.key.digest)
        self.files.sweep(folder_of(self.key.digest))

    def _name(self, number: int) -> str:
        return f"{folder_of(self.key.digest)}/shard-{number:04d}.safetensors"


def _told(name: str, data: bytes, shard: Shard) -> dict[str, Any]:
    """What an entry says of one of its shards, and what its sums need."""
    size = {"bytes": len(data), "blake3": blake3(data).hexdigest()}
    return {"name": name.rpartition("/")[2], **size, "shape": shard.values.shape, "broken": len(shard.broken)}


def require_rows(values: np.ndarray, sample_ids: Sequence[str], key: Key) -> None:
    if values.ndim != 2 or len(values) != len(sample_ids) or values.dtype != np.float32:
        raise UsageError("features are float32 rows, one per sample", got=f"{values.dtype} {values.shape} for {len(sample_ids)} samples")
    if len(set(sample_ids)) != len(sample_ids):
        raise UsageError("sample ids repeat", got=f"{len(sample_ids) - len(set(sample_ids))} duplicates", where=key.subject)


def folder_of(digest: str) -> str:
    return f"{digest[:2]}/{digest}"
