"""From a dataset's card, path or name to samples: which reader, which part of it, and one digest that names what is read."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from harness import registry
from harness.cards import dataset_card, dataset_cards
from harness.checkpoints import canonical_digest
from harness.datasets import Reader
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.sources import module_digest
from harness.types import Broken, Sample

__all__ = ["Dataset", "Selection", "Stream", "read", "stream"]


class Dataset(NamedTuple):
    """Samples in their fixed order; `digest` covers the reader's name, code and options, and the content of its file."""

    name: str
    digest: str
    samples: tuple[Sample, ...]

    @property
    def selection_digest(self) -> str:
        """One digest of the samples' ids in their order, 64 hex digits."""
        return canonical_digest([sample.id for sample in self.samples])


@dataclass(frozen=True)
class Selection:
    """Which samples of a dataset: the first `episodes`, the first `steps` of each, and of those the ids in `plan`; None is all.

    With `skip_blank`, samples without an instruction are left out, and counted.
    """

    episodes: int | None = None
    steps: int | None = None
    plan: frozenset[str] | None = None
    skip_blank: bool = False

    def chosen(self, records: Iterator[Sample | Broken]) -> Iterator[Sample | Broken]:
        """The chosen ones of the records of whole episodes, in order."""
        episode, count = None, 0
        for record in records:
            episode, count = (episode, count + 1) if record.episode == episode and episode else (record.episode, 1)
            if (self.steps is None or count <= self.steps) and (self.plan is None or record.id in self.plan):
                blank = self.skip_blank and isinstance(record, Sample) and not record.instruction.strip()
                yield Broken(record.id, "its instruction is blank", record.episode, left_out=True) if blank else record


class Origin(NamedTuple):
    """How a dataset was opened: the format's name, where it lies (a relative path is one of the working folder), and the reader's options."""

    format: str
    path: Path | str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Stream:
    """A dataset that is read a shard at a time; the same `digest` and `selection` are the same samples in the same order.

    Travels to other processes and machines by its `origin`: it is opened again there, and refused when it is another dataset.
    """

    name: str
    digest: str
    reader: Reader = field(repr=False)
    selection: Selection = Selection()
    origin: Origin | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        if self.origin is None:
            return Stream, (self.name, self.digest, self.reader, self.selection)
        return _reopened, (self.name, self.digest, self.selection, self.origin)

    @property
    def episodes(self) -> int:
        """How many episodes are read."""
        return len(self.reader) if self.selection.episodes is None else min(len(self.reader), self.selection.episodes)

    @property
    def shards(self) -> int:
        """How many shards those are."""
        return -(-self.episodes // self.reader.shard)

    def shard(self, number: int) -> Iterator[Sample | Broken]:
        """The chosen samples of one shard: a range of episodes that depends on nothing but the format."""
        start = number * self.reader.shard
        return self.selection.chosen(self.reader.read(start, min(start + self.reader.shard, self.episodes)))

    def __iter__(self) -> Iterator[Sample | Broken]:
        for number in range(self.shards):
            yield from self.shard(number)

    @property
    def selection_digest(self) -> str:
        """One digest of the selection, 64 hex digits."""
        plan = self.selection.plan
        return canonical_digest({**asdict(self.selection), "plan": None if plan is None else sorted(plan)})


@lru_cache
def read(name: str) -> Dataset:
    """Every sample of the dataset of a card, in memory. Raises UnknownNameError, DamagedError, UsageError when ids repeat."""
    whole = stream(name)
    records = tuple(whole)
    if broken := [record for record in records if isinstance(record, Broken)]:
        raise DamagedError(f"{len(broken)} records of a dataset are broken", where=name, got=f"{broken[0].id}: {broken[0].reason}")
    if len({sample.id for sample in records}) != len(records):
        raise UsageError("sample ids repeat", where=name, got=f"{len(records)} samples", expected="one id for each")
    return Dataset(name, whole.digest, records)


def stream(source: str, *, selection: Selection = Selection(), reader: str | None = None, options: Mapping[str, Any] | None = None) -> Stream:
    """The dataset of a card, a path, or a name that a format knows; `options` are the reader's own, over those of the card.

    `reader` names the format where a path does not tell. Raises UnknownNameError, UsageError, DamagedError, MissingError.
    """
    given = dict(options or {})
    if reader is None and source in dataset_cards():
        card = dataset_card(source)
        path: Path | str = (card.folder / card.path).resolve() if card.path else source
        if isinstance(path, Path) and not path.exists():
            raise DamagedError("a dataset card points to a file that is not there", where=f"{source}, field path", got=path)
        reader, given = card.reader, {**card.options, **given}
    else:
        path = Path(source) if Path(source).exists() else source
        reader = reader or _recognised(path, source)
    format = registry.load("datasets", reader)
    known = {name for name in inspect.signature(format.__init__).parameters if name not in ("self", "path")}
    if unknown := sorted(given.keys() - known):
        raise UnknownNameError(f"option of datasets read as {reader}", unknown[0], known, where=source)
    origin = Origin(reader, path, given)
    opened = format(path, **given)
    return Stream(source, _digest(origin, opened), opened, selection, origin)


def _digest(origin: Origin, opened: Reader) -> str:
    """What names the samples: reader, options, content and code, but not where it lies."""
    return canonical_digest([origin.format, origin.options, opened.identity(), module_digest(registry.module("datasets", origin.format))])


def _reopened(name: str, digest: str, selection: Selection, origin: Origin) -> Stream:
    """The same stream in another process. Raises MissingError, DamagedError, and what the format raises."""
    where = f"{origin.path} on {platform.node()}"
    if isinstance(origin.path, Path) and not origin.path.exists():
        raise MissingError(f"the dataset {name} is not on this machine", where=where, next="a shared file system, or a copy at the same path")
    opened = registry.load("datasets", origin.format)(origin.path, **origin.options)
    if (found := _digest(origin, opened)) != digest:
        next = "the same files and the same version of the harness on every machine, and no writing while it is read"
        raise DamagedError(f"the dataset {name} is another one here", where=where, got=found[:16], expected=digest[:16], next=next)
    return Stream(name, digest, opened, selection, origin)


def _recognised(path: Path | str, source: str) -> str:
    """The one format that says this is its own. Raises UnknownNameError when none does, UsageError when several do."""
    found = [name for name in registry.names("datasets") if registry.load("datasets", name).recognises(path)]
    if len(found) > 1:
        raise UsageError("several formats read this dataset", where=source, got=", ".join(found), next=f"--reader {found[0]}")
    if not found:
        formats = ", ".join(registry.names("datasets"))
        next = f"--reader NAME, one of {formats}, if it is another folder's layout"
        raise UnknownNameError("dataset", source, dataset_cards(), where="neither a card, nor a path that a format recognises", next=next)
    return found[0]
