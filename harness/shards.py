"""One shard of a feature set as bytes: a safetensors file with rows, their sample ids, and the records that gave none."""

from __future__ import annotations

import json
import struct
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from harness.checkpoints import canonical_digest
from harness.errors import DamagedError
from harness.types import Broken

__all__ = ["Shard", "packed", "unpacked"]


class Shard(NamedTuple):
    """Rows (n, d) float32, one per sample id, and what could not be read."""

    values: np.ndarray
    sample_ids: tuple[str, ...]
    broken: tuple[Broken, ...] = ()


def packed(shard: Shard) -> bytes:
    """The shard as a safetensors file; equal shards are equal bytes."""
    from safetensors.numpy import save

    # one metadata entry: safetensors writes several in an order that changes from run to run
    record = {"sample_ids": shard.sample_ids, "broken": list(map(astuple, shard.broken))}
    sealed = json.dumps({**record, "blake3": _seal(shard.values, record)}, ensure_ascii=False)
    return save({"features": np.ascontiguousarray(shard.values)}, metadata={"record": sealed})


def unpacked(data: bytes, where: object) -> Shard:
    """The shard of these bytes. Raises DamagedError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        values = load(data)["features"]
        (size,) = struct.unpack("<Q", data[:8])
        record = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["record"])
        claimed = record.pop("blake3")
        shard = Shard(values, tuple(record["sample_ids"]), tuple(Broken(*broken) for broken in record["broken"]))
    except (SafetensorError, KeyError, ValueError, TypeError, struct.error) as error:
        raise DamagedError("a shard of a store entry is not readable", where=where, got=repr(error), expected="a file this harness wrote") from error
    if _seal(values, record) != claimed:
        raise DamagedError("a shard of a store entry was altered", where=where, got=_seal(values, record)[:16], expected=str(claimed)[:16])
    return shard


def _seal(values: np.ndarray, record: object) -> str:
    return canonical_digest([blake3(np.ascontiguousarray(values).tobytes()).hexdigest(), values.shape, record])
