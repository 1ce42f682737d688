"""Samples to rows while the model stays busy: pictures are decoded and encoded ahead, rows leave the device one batch later.

Work is cut into shards; within one, samples of similar length share a batch. What a shard becomes depends on nothing but its
samples, so the same shards in any process, after any interruption, are the same numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from harness.adapters import Adapter
from harness.errors import HarnessError
from harness.types import Array, Batch, Broken, Point, Sample

__all__ = ["Block", "Keep", "blocks", "host"]

AHEAD = 3  # batches that are ready or being made while the model runs
Keep = Callable[[Point, Array], Array]


@dataclass(frozen=True)
class Block:
    """What one shard gave: `rows` by point, one for every id, in the samples' order; and what could not be used.

    `lengths` are each row's valid tokens by stack. Rows of different shapes, kept from sequences of different length, are objects.
    """

    shard: int
    sample_ids: tuple[str, ...]
    rows: Mapping[Point, np.ndarray]
    broken: tuple[Broken, ...]
    samples: tuple[Sample, ...] = ()
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)


class Prepared(NamedTuple):
    """A batch ready for the model, where its samples stand in their shard, and those that could not be encoded."""

    batch: Batch | None
    places: list[int]
    broken: dict[int, Broken]


def blocks(
    adapter: Adapter,
    shards: Iterable[tuple[int, Iterable[Sample | Broken]]],
    points: Sequence[Point],
    keep: Callable[[Batch], Keep],
    *,
    batch_size: int = 16,
    workers: int = 2,
    finite: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Block]:
    """Every shard as a block, in order. `keep(batch)` says what is kept of each point: an array with one row per sample.

    `progress` is told how many samples are through. A record that cannot be decoded or encoded, or (with `finite`) whose rows are not finite, is told as broken. At most
    AHEAD batches and the records of two shards are in memory.
    """
    with ThreadPoolExecutor(workers, "decode") as decoders, ThreadPoolExecutor(1, "encode") as encoder:
        opened: deque[_Open] = deque()
        through = 0
        for opening, prepared in _ahead(adapter, shards, batch_size, decoders, encoder):
            if opening is not None:
                opened.append(opening)
                continue
            ready = prepared.result()
            taken = {} if ready.batch is None else adapter.capture(ready.batch, points, keep(ready.batch))
            yield from _settled(opened, points, finite)
            _open_for(opened).take(ready, taken)
            through += len(ready.places) + len(ready.broken)
            if progress is not None:
                progress(through)
        yield from _settled(opened, points, finite)


class _Open:
    """A shard on its way: its samples, and the rows of its batches as they arrive, the last of them still on the device."""

    def __init__(self, number: int, records: Iterable[Sample | Broken], batch_size: int) -> None:
        records = tuple(records)
        self.number = number
        self.samples = tuple(record for record in records if isinstance(record, Sample))
        self.broken: dict[int, Broken] = {}
        self.unread = tuple(record for record in records if isinstance(record, Broken))
        order = sorted(range(len(self.samples)), key=lambda index: len(self.samples[index].instruction))
        self.batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self.places: list[int] = []
        self.lengths: dict[str, list[np.ndarray]] = {}
        self.rows: list[dict[Point, Array]] = []
        self.taken = 0

    @property
    def complete(self) -> bool:
        return self.taken == len(self.batches)

    def take(self, ready: Prepared, rows: dict[Point, Array]) -> None:
        """Adds a batch; the one before it is brought to the host now that the device has new work."""
        self.taken += 1
        self.broken |= ready.broken
        if self.rows:
            self.rows[-1] = {point: host(value) for point, value in self.rows[-1].items()}
        if rows:
            self.places += ready.places
            self.rows.append(rows)
            for stack in {point.stack for point in rows}:
                self.lengths.setdefault(stack, []).append(host(ready.batch.tokens[stack].mask.sum(1)))

    def block(self, points: Sequence[Point], finite: bool) -> Block:
        """All batches as one block, rows in the order of the samples."""
        self.rows = [{point: host(value) for point, value in rows.items()} for rows in self.rows]
        order = np.argsort(self.places)
        rows = {point: in_order([batch[point] for batch in self.rows], self.places) for point in points} if self.rows else {}
        kept = np.ones(len(order), bool)
        for point, values in rows.items() if finite else ():
            for row in np.flatnonzero(kept & [not np.isfinite(value).all() for value in values]):
                sample = self.samples[self.places[order[row]]]
                self.broken[self.places[order[row]]] = Broken(sample.id, f"its features at {point} are not finite", sample.episode)
                kept[row] = False
        samples = tuple(self.samples[self.places[index]] for index, good in zip(order, kept, strict=True) if good)
        broken = (*self.unread, *(self.broken[place] for place in sorted(self.broken)))
        rows = {point: values[kept] for point, values in rows.items()}
        lengths = {stack: in_order(counts, self.places)[kept] for stack, counts in self.lengths.items()}
        return Block(self.number, tuple(sample.id for sample in samples), rows, broken, samples, lengths)


def in_order(batches: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
    """The rows of all batches, row `i` of which belongs to the sample at `places[i]`, in the order of the samples."""
    if len({batch.shape[1:] for batch in batches}) == 1:
        return np.concatenate(batches)[np.argsort(places)]
    rows = np.empty(len(places), object)
    rows[:] = [row for batch in batches for row in batch]
    return rows[np.argsort(places)]


def host(value: Array) -> np.ndarray:
    """The array on the host; of torch's dtypes, those numpy lacks come as float32, which holds them exactly."""
    if not hasattr(value, "cpu"):
        return np.asarray(value)
    return value.float().cpu().numpy() if value.dtype.is_floating_point and value.element_size() == 2 else value.cpu().numpy()


def _ahead(
    adapter: Adapter,
    shards: Iterable[tuple[int, Iterable[Sample | Broken]]],
    batch_size: int,
    decoders: ThreadPoolExecutor,
    encoder: ThreadPoolExecutor,
) -> Iterator[tuple[_Open | None, Future[Prepared]]]:
    """Each shard as it opens, then its batches; up to AHEAD of them are being prepared before the first is asked for."""
    waiting: deque[tuple[_Open | None, Future[Prepared] | None]] = deque()
    for number, records in shards:
        opening = _Open(number, records, batch_size)
        waiting.append((opening, None))
        for places in opening.batches:
            looked = [decoders.submit(_checked, adapter, opening.samples[place]) for place in places]
            waiting.append((None, encoder.submit(_prepared, adapter, looked, places)))
            while sum(future is not None for _, future in waiting) > AHEAD:
                yield waiting.popleft()
    yield from waiting


def _open_for(opened: deque[_Open]) -> _Open:
    """The oldest shard that still waits for a batch."""
    return next(shard for shard in opened if not shard.complete)


def _settled(opened: deque[_Open], points: Sequence[Point], finite: bool) -> Iterator[Block]:
    """The blocks of the complete shards at the front."""
    while opened and opened[0].complete:
        yield opened.popleft().block(points, finite)


def _prepared(adapter: Adapter, looking: Sequence[Future[Sample | Broken]], places: Sequence[int]) -> Prepared:
    """One batch of the samples that can be decoded and encoded. Only one thread encodes: tokenizers are not safe for several."""
    looked = [future.result() for future in looking]
    good = [index for index, found in enumerate(looked) if isinstance(found, Sample)]
    broken = {places[index]: found for index, found in enumerate(looked) if isinstance(found, Broken)}
    try:
        batch = adapter.encode([looked[index] for index in good]) if good else None
    except HarnessError:  # of one sample: find it
        alone = {index: _encoded(adapter, looked[index]) for index in good}
        broken |= {places[index]: found for index, found in alone.items() if isinstance(found, Broken)}
        good = [index for index, found in alone.items() if found is None]
        batch = adapter.encode([looked[index] for index in good]) if good else None
    return Prepared(batch, [places[index] for index in good], broken)


def _checked(adapter: Adapter, sample: Sample) -> Sample | Broken:
    """The sample with its pictures decoded, or why it cannot be used."""
    try:
        given = sample.images if "images" in adapter.inputs_used else {}
        seen = adapter.cameras if set(adapter.cameras) <= set(given) else given  # what the model does not look at is not decoded
        decoded = replace(sample, images={camera: given[camera] for camera in given if camera in seen}) if given else sample
        adapter.require([decoded])
    except HarnessError as error:
        return Broken(sample.id, str(error), sample.episode)
    return decoded


def _encoded(adapter: Adapter, sample: Sample) -> Broken | None:
    try:
        adapter.encode([sample])
    except HarnessError as error:
        return Broken(sample.id, str(error), sample.episode)
    return None
