"""This machine, one process: the model runs while threads decode the next batches and write the last shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from harness import subjects
from harness.adapters import Adapter
from harness.extract import Done, Job, work

__all__ = ["local"]


def local(
    job: Job, shards: Sequence[int], *, adapter: Adapter | None = None, progress: Callable[[int], None] | None = None
) -> Iterator[Done]:
    """Computes the shards in order; `adapter` is the loaded model where the caller has one. Raises what loading raises."""
    yield from work(job, adapter or subjects.load(job.subject, job.runtime), shards, progress)
