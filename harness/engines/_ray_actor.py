"""What runs on a cluster's nodes: one loaded model per actor, which writes the shards it is given straight to their destination."""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

from harness import checkpoints, subjects
from harness.adapters import Adapter
from harness.errors import DamagedError, HarnessError, MissingError, UsageError
from harness.extract import Done, Job, feature_key, work
from harness.types import Point, Subject

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Extractor", "Order", "Told", "order"]

ANY = Point("any", "point")  # stands for all points: what differs between machines is the same for each of them
ATTEMPTS = 5  # of a group of shards
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Order:
    """A job as it travels: in bytes, because its dataset opens where they are read, with what its machine computes numbers from.

    `folder` is the one that relative names are of, `threads` are those of one model.
    """

    job: bytes
    destination: str
    circumstances: Mapping[str, str]
    folder: Path
    threads: int


class Told(NamedTuple):
    """What comes back from a process on a node: a shard that is written, or why there will be none."""

    node: str
    result: Done | HarnessError | OSError


def order(job: Job, threads: int) -> Order:
    """The job with names of folders that mean the same anywhere."""
    weights, tokenizer = job.subject.weights, job.subject.tokenizer
    weights = weights if weights.directory is None else replace(weights, directory=weights.directory.absolute())
    subject = replace(job.subject, weights=weights, tokenizer=None if tokenizer is None else tokenizer.absolute())
    return Order(pickle.dumps(replace(job, subject=subject)), job.sink.destination, _circumstances(job, subject), Path.cwd(), threads)


@final
class Extractor:
    """Computes groups of shards with a model that is loaded for the first of them, so that an error of loading is told like any other.

    `attempts` says how often the group that starts with a shard was begun, in all processes.
    """

    def __init__(self, packed: bytes, attempts: Callable[[int], int]) -> None:
        self.packed, self.attempts = packed, attempts
        self.opened: tuple[Job, Adapter] | None = None

    def __call__(self, group: Mapping[str, np.ndarray]) -> Iterator[dict[str, list[bytes]]]:
        """A `Told` in bytes for every number in the group's column `shard`, or for its first error."""
        node, numbers = f"{platform.node()}, process {os.getpid()},", group["shard"].tolist()
        try:
            _require_few_attempts(self.attempts(numbers[0]), numbers)
            if self.opened is None:
                self.opened = _opened(pickle.loads(self.packed))  # noqa: S301
            for done in _finished(*self.opened, numbers):
                yield {"told": [pickle.dumps(Told(node, done))]}
        except (HarnessError, OSError) as error:
            yield {"told": [pickle.dumps(Told(node, error))]}


def _require_few_attempts(attempt: int, numbers: Sequence[int]) -> None:
    """A node may be lost, but a record that ends every process that reads it must end the run. Raises DamagedError."""
    if attempt > ATTEMPTS:
        got, expected = f"{attempt - 1} processes that ended while they computed shards {numbers[0]} to {numbers[-1]}", "a lost node at most"
        next = "look for their end in /tmp/ray/session_latest/logs: too little memory, or a record that crashes a decoder; then run the same command"
        raise DamagedError("the same shards end every process", got=got, expected=expected, next=next)


def _finished(job: Job, adapter: Adapter, numbers: Sequence[int]) -> Iterator[Done]:
    """Shards that an actor on a lost node had written already, then the others as they are done."""
    there = {number: found for number in numbers if (found := job.sink.found(job.stream, number)) is not None}
    yield from there.values()
    yield from work(job, adapter, [number for number in numbers if number not in there])


def _opened(order: Order) -> tuple[Job, Adapter]:
    """The job with its model in memory. Raises UsageError when this machine would compute other numbers, and what loading raises."""
    if order.folder.is_dir():
        os.chdir(order.folder)
    elif "://" not in order.destination and not Path(order.destination).is_absolute():
        next = "give the destination as an absolute path on a shared file system, or as an address such as s3://bucket/folder"
        raise MissingError(f"the run's working folder is not on {platform.node()}", where=order.folder, got=order.destination, next=next)
    _limit_threads(order.threads)
    job: Job = pickle.loads(order.job)  # noqa: S301 - from the process that started this one
    here = _circumstances(job, _found_here(job.subject))
    if different := [name for name, value in order.circumstances.items() if here.get(name) != value]:
        raise UsageError(
            f"{platform.node()} would compute other numbers than the machine that asks",
            where=", ".join(different),
            got=", ".join(str(here.get(name)) for name in different),
            expected=", ".join(order.circumstances[name] for name in different),
            next="the same files, packages and kind of accelerator on every node",
        )
    return job, subjects.load(job.subject, job.runtime)


def _limit_threads(threads: int) -> None:
    """As many as where the run started, and not as many as Ray thinks fit: the order in which numbers are added up depends on it."""
    import threadpoolctl

    os.environ.update({name: str(threads) for name in THREADS})  # for what is not loaded yet
    import torch

    threadpoolctl.threadpool_limits(threads)  # for what is
    torch.set_num_threads(threads)


def _found_here(subject: Subject) -> Subject:
    """The subject with the digest of the weights that lie on this machine. Raises MissingError, DamagedError."""
    directory = subject.weights.directory
    if directory is None:
        return subject
    checkpoints.verify(directory, next=f"make the folder visible on {platform.node()}, by a shared file system or a copy")
    return replace(subject, weights=replace(subject.weights, digest=checkpoints.directory_digest(directory)))


def _circumstances(job: Job, subject: Subject) -> dict[str, str]:
    """All that could change a number, by name: the parts of a feature key."""
    parts = asdict(feature_key(subject, job.runtime, job.stream, ANY, "mean"))
    versions = {f"version of {name}": version for name, version in parts.pop("versions").items()}
    return {**{name: str(value) for name, value in parts.items()}, **versions}
