"""Counts over one pass through a dataset, in memory that does not grow with it; no picture is decoded unless asked for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.readers import Stream
from harness.sampling._columns import Column, Columns
from harness.sampling._duplicates import Duplicates
from harness.sampling._episodes import Run, labels, runs
from harness.sampling._pictures import Decoded, Spread
from harness.types import Broken, Progress, Sample

__all__ = ["Count", "Numbers", "Reason", "Stats", "stats"]

DISTINCT = 200  # a field with more values than this is a measurement or a name, not a class to count by
REASONS, SHOWN = 100, 5


@dataclass(frozen=True)
class Count:
    """How many samples have a value, and in how many episodes it occurs."""

    episodes: int
    samples: int


@dataclass(frozen=True)
class Reason:
    """Broken records that are so for one reason but for the numbers in it, told as the first one tells it; `ids` are the first few."""

    reason: str
    count: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """Every array of one shape among the actions or states: how many samples have it, and its columns (leading axes count as rows)."""

    shape: tuple[int, ...]
    samples: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Stats:
    """What `harness dataset stats` reports. `lengths` counts episodes by their samples, `tasks` and `fields` by value, largest first.

    `episodes` have a sample, of `listed` that the reader counts. `fields` of more than 200 values are None. `repeated_ids` were looked for in
    `checked_share` of the ids, which is 1 up to a million.
    """

    source: str
    dataset_digest: str
    listed: int
    episodes: int
    samples: int
    broken_records: int
    left_out: int
    lengths: Mapping[int, int]
    instructed: int
    instructions: int
    tasks: Mapping[str, Count]
    fields: Mapping[str, Mapping[str, Count] | None]
    keys: Mapping[str, str]
    cameras: Mapping[str, int]
    actions: tuple[Numbers, ...]
    states: tuple[Numbers, ...]
    broken: tuple[Reason, ...]
    repeated_ids: int
    first_repeated: tuple[str, ...]
    checked_share: float
    decoded: Decoded | None

    @property
    def holds(self) -> bool:
        """Whether no record and no decoded picture is broken and no id comes twice."""
        return not (self.broken_records or self.repeated_ids or self.decoded and self.decoded.broken)

    @property
    def coverage(self) -> float:
        """Share of the samples with an instruction that is not blank, 0 to 1; 0 without samples."""
        return self.instructed / self.samples if self.samples else 0.0


def stats(stream: Stream, *, decode: int = 0, progress: Progress | None = None) -> Stats:
    """One pass over every record. `decode` pictures, spread over the data, are decoded after it. Raises what the reader raises."""
    count = _Counts(decode)
    for run in runs(stream):
        count.add(run)
        if progress:
            progress(run.shards[-1] + 1, stream.shards, "shards read")
    tasks = count.labels.pop("task", {})
    return Stats(
        source=stream.name,
        dataset_digest=stream.digest,
        listed=stream.episodes,
        episodes=sum(count.lengths.values()),
        samples=sum(length * times for length, times in count.lengths.items()),
        broken_records=sum(reason.count for reason in count.reasons.values()),
        left_out=count.left_out,
        lengths=dict(sorted(count.lengths.items())),
        instructed=count.instructed,
        instructions=len(count.instructions),
        tasks=_sorted(tasks or {}),
        fields={name: None if values is None else _sorted(values) for name, values in sorted(count.labels.items()) if name != "instruction"},
        keys=dict(stream.reader.keys()),
        cameras=dict(sorted(count.cameras.items())),
        actions=_numbers(count.actions),
        states=_numbers(count.states),
        broken=tuple(sorted(count.reasons.values(), key=lambda reason: (-reason.count, reason.reason))),
        repeated_ids=count.ids.count,
        first_repeated=count.ids.first,
        checked_share=count.ids.checked_share,
        decoded=count.pictures.decoded() if decode else None,
    )


class _Counts:
    def __init__(self, decode: int) -> None:
        self.lengths: Counter[int] = Counter()
        self.cameras: Counter[str] = Counter()
        self.instructions: set[str] = set()
        self.instructed = self.left_out = 0
        self.labels: dict[str, dict[str, Count] | None] = {}
        self.actions: dict[tuple[int, ...], Columns] = {}
        self.states: dict[tuple[int, ...], Columns] = {}
        self.reasons: dict[str, Reason] = {}
        self.ids, self.pictures = Duplicates(), Spread(decode)

    def add(self, run: Run) -> None:
        for record in run.records:
            self.ids.add(record.id)
            if isinstance(record, Broken):
                self._add_broken(record)
        if samples := run.samples:
            self.lengths[len(samples)] += 1
            self._add_labels(samples)
            _add_rows(self.actions, (sample.action for sample in samples))
            _add_rows(self.states, (sample.state for sample in samples))
            for sample in samples:
                self.cameras.update(sample.images.keys())
                self.pictures.offer(sample)

    def _add_broken(self, record: Broken) -> None:
        if record.left_out:
            self.left_out += 1
            return
        kind = re.sub(r"\d+", "0", record.reason)
        if kind not in self.reasons and len(self.reasons) >= REASONS:
            kind = ""
        known = self.reasons.get(kind, Reason(record.reason if kind else "other reasons", 0, ()))
        self.reasons[kind] = Reason(known.reason, known.count + 1, (*known.ids, record.id)[:SHOWN])

    def _add_labels(self, samples: list[Sample]) -> None:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in samples:
            if text := sample.instruction.strip():
                self.instructed += 1
                self.instructions.add(text)
            for name, value in labels(sample).items():
                found[name][value] += 1
        for name, values in found.items():
            counts = self.labels.setdefault(name, {})
            if counts is None:
                continue
            for value, times in values.items():
                known = counts.get(value, Count(0, 0))
                counts[value] = Count(known.episodes + 1, known.samples + times)
            if len(counts) > DISTINCT and name != "task":
                self.labels[name] = None


def _add_rows(columns: dict[tuple[int, ...], Columns], arrays: Iterable[np.ndarray | None]) -> None:
    """One episode's arrays, by their shape."""
    rows: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    for array in arrays:
        if array is not None:
            rows[np.shape(array)].append(np.asarray(array))
    for shape, own in rows.items():
        width = shape[-1] if shape else 1
        columns.setdefault(shape, Columns(width)).add(np.stack(own).reshape(-1, width))


def _numbers(columns: Mapping[tuple[int, ...], Columns]) -> tuple[Numbers, ...]:
    return tuple(Numbers(shape, found.rows // max(1, int(np.prod(shape[:-1]))), found.columns()) for shape, found in sorted(columns.items()))


def _sorted(counts: Mapping[str, Count]) -> dict[str, Count]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1].episodes, -pair[1].samples, pair[0])))
