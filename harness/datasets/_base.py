"""What every dataset format does: count its episodes, read any range of them in a fixed order, and tell its content from another's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from harness.checkpoints import file_digest
from harness.types import Broken, Sample

__all__ = ["Reader", "Rows"]


class Reader(ABC):
    """Samples of one dataset. Opening one reads headers only; pictures are decoded when somebody looks at them.

    `shard` episodes are extracted and resumed together; a format without episodes counts each sample as one.
    """

    shard: ClassVar[int] = 16

    @classmethod
    def recognises(cls, source: Path | str) -> bool:
        """Whether a path, or a name or address where nothing lies at that path, is this format's: by names of files, quickly."""
        return False

    @abstractmethod
    def __len__(self) -> int:
        """Number of episodes in the chosen split, broken ones included."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        """Samples of the episodes [start, stop) in order, each with an id that no choice of split or range changes.

        A record that cannot become a sample is given as Broken, and reading goes on behind it.
        """

    @abstractmethod
    def identity(self) -> object:
        """What tells this content from any other, as JSON: names, sizes and digests, cheap enough for a terabyte."""

    @abstractmethod
    def keys(self) -> dict[str, str]:
        """The keys of a record in dot notation, each with its dtype and shape: what `harness dataset stats` lists."""

    def __iter__(self) -> Iterator[Sample | Broken]:
        return self.read(0, len(self))


class Rows(Reader):
    """A small dataset held in memory, each sample an episode of its own; `path` is its one file."""

    shard: ClassVar[int] = 1024

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def rows(self) -> Iterator[Sample | Broken]:
        """Every sample in order. Raises DamagedError when the file is not what it should be."""

    @cached_property
    def _rows(self) -> tuple[Sample | Broken, ...]:
        return tuple(self.rows())

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        yield from self._rows[start:stop]

    def identity(self) -> object:
        return file_digest(self.path)

    def keys(self) -> dict[str, str]:
        first = next((row for row in self._rows if isinstance(row, Sample)), None)
        pictures = {} if first is None else {f"images.{name}": f"{x.dtype} {x.shape}" for name, x in first.images.items()}
        return {"instruction": "text", **pictures}
