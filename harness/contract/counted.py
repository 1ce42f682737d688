"""Is every record that gave no row told, so that 499 of 500 is an answer and not a puzzle?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.adapters import Adapter
from harness.errors import DamagedError
from harness.extract import keeper
from harness.pictures import Pictures
from harness.pipeline import blocks
from harness.types import Broken, Measurement, Sample

__all__ = ["counted"]


def counted(adapter: Adapter, samples: Sequence[Sample]) -> Measurement:
    """Records of a shard that neither gave a row nor are told as broken with a reason: 0. One of them could not be read, and the
    pictures of another cannot be decoded.
    """
    dark = replace(samples[0], id="undecodable", images=Pictures(dict.fromkeys(samples[0].images, _undecodable)))
    records = [*samples, Broken("unreadable", "its record is cut off"), dark]
    point = next(iter(adapter.clauses))
    (block,) = blocks(adapter, [(0, records)], [point], lambda batch: keeper(batch, [point], "mean", adapter.runtime.device))
    told = [record.id for record in block.broken if record.reason]
    unaccounted = len(records) - len(block.sample_ids) - len(told)
    return Measurement(unaccounted, detail=f"{len(records)} records: {len(block.sample_ids)} rows, told as broken: {', '.join(told) or 'none'}")


def _undecodable() -> object:
    raise DamagedError("a picture cannot be decoded", where="undecodable", got="noise", expected="JPEG or PNG")
