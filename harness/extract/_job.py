"""An extraction of any size: shard after shard to its sink, on this machine or many, going on wherever it stopped."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from harness.adapters import Adapter
from harness.errors import DamagedError, UsageError
from harness.pipeline import Block, Keep, blocks
from harness.readers import Stream
from harness.storage import cannot_write
from harness.types import Batch, Broken, Point, Runtime, Subject

__all__ = ["Done", "Job", "Sink", "Summary", "run", "work"]

WRITING = 2  # shards that may wait for the disk
Engine = Callable[["Job", list[int]], Iterator["Done"]]


class Sink(ABC):
    """Where the rows of a shard go, and what is kept of each point on the way. Travels to other processes."""

    points: tuple[Point, ...]

    @abstractmethod
    def keep(self, batch: Batch) -> Keep:
        """What is kept of the points of a batch: arrays with one row per sample."""

    @abstractmethod
    def found(self, stream: Stream, number: int) -> Done | None:
        """A shard that an earlier run left here, whole; None when there is none."""

    @abstractmethod
    def put(self, block: Block) -> Done:
        """Writes a shard, every file of it whole or not there. Raises OSError."""

    @abstractmethod
    def finish(self, stream: Stream, done: Sequence[Done]) -> Mapping[str, str]:
        """What is written when all shards are there; gives what to tell the user: names of results and where they are."""

    @property
    @abstractmethod
    def destination(self) -> str:
        """The folder or address, for messages."""

    def lock(self) -> AbstractContextManager[None]:
        """Held while one process extracts to this place."""
        return nullcontext()


@dataclass(frozen=True)
class Done:
    """A shard that is written: how many samples it had, those without rows, and what its sink wants to remember."""

    shard: int
    samples: int
    broken: tuple[Broken, ...]
    told: Any = None

    @property
    def failed(self) -> list[Broken]:
        """Those without a row that nobody asked to leave out."""
        return [record for record in self.broken if not record.left_out]


@dataclass(frozen=True)
class Job:
    """Everything that a process anywhere needs to compute some shards. `workers` decode; `threads` run the model, 0: as many as torch likes."""

    subject: Subject
    runtime: Runtime
    stream: Stream
    sink: Sink
    batch_size: int = 16
    workers: int = 2
    threads: int = 0


@dataclass(frozen=True)
class Summary:
    """A finished extraction: what it made, samples with rows, records without, shards that were there, and seconds it took."""

    made: Mapping[str, str]
    rows: int
    broken: tuple[Broken, ...]
    resumed: int
    seconds: float

    @property
    def reasons(self) -> dict[str, int]:
        """How many records each reason cost, the commonest first; a reason is its message's first line, ids left out."""
        counts: dict[str, int] = {}
        for record in self.broken:
            reason = record.reason.partition("\n")[0].replace(repr(record.id), "…")
            counts[reason] = counts.get(reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def run(job: Job, engine: Engine, *, max_failures: int = 0, progress: Callable[[Done], None] | None = None) -> Summary:
    """Computes the shards that the sink lacks and finishes it; the same command after any interruption goes on.

    Raises DamagedError as soon as more than `max_failures` records gave no row, UsageError when there is no sample, MissingError
    when the destination is full or read-only. Every shard that was computed until then is kept.
    """
    started, count = time.monotonic(), job.stream.shards
    with job.sink.lock(), clear_about_disks(job.sink.destination):
        done = {number: found for number in range(count) if (found := job.sink.found(job.stream, number)) is not None}
        resumed, pending = len(done), [number for number in range(count) if number not in done]
        samples, failed = sum(shard.samples for shard in done.values()), [record for shard in done.values() for record in shard.failed]
        _require_few(failed, samples, max_failures)
        for fresh in engine(job, pending) if pending else ():
            done[fresh.shard] = fresh
            samples, failed = samples + fresh.samples, [*failed, *fresh.failed]
            if progress is not None:
                progress(fresh)
            _require_few(failed, samples, max_failures)
        ordered = [done[number] for number in range(count)]
        broken = tuple(record for shard in ordered for record in shard.broken)
        if not samples:
            raise UsageError("there are no samples to take features of", where=job.stream.name, got=f"{job.stream.episodes} episodes, none with a sample")
        made = job.sink.finish(job.stream, ordered)
    return Summary(made, samples - len(broken), broken, resumed, time.monotonic() - started)


def work(job: Job, adapter: Adapter, numbers: Iterable[int], progress: Callable[[int], None] | None = None) -> Iterator[Done]:
    """Computes these shards and writes each while the next runs; gives them in order once they are there."""
    shards, waiting = ((number, job.stream.shard(number)) for number in numbers), deque()
    with ThreadPoolExecutor(1, "write") as pool:
        for block in blocks(adapter, shards, job.sink.points, job.sink.keep, batch_size=job.batch_size, workers=job.workers, progress=progress):
            waiting.append(pool.submit(job.sink.put, block))
            while len(waiting) > WRITING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _require_few(failed: Sequence[Broken], samples: int, most: int) -> None:
    if len(failed) > most:
        got = f"{len(failed)} of the {samples} so far, first {failed[0].id}: {failed[0].reason}"
        next = f"mend the data, or allow some with --max_failures {len(failed)}; finished shards are kept"
        raise DamagedError("too many records gave no features", got=got, expected=f"at most {most}", next=next)


@contextmanager
def clear_about_disks(destination: str) -> Iterator[None]:
    """Turns an error of the destination's disk into one that says what is kept and how to go on."""
    try:
        yield
    except OSError as error:
        next = "make room or name another folder, then run the same command: finished shards are kept"
        raise cannot_write(error, what="the destination cannot be written to", where=destination, next=next) from error
