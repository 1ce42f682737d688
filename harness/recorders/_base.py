"""What every recorder does: write episodes one at a time, and let nobody read a dataset before it is whole."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from harness import storage
from harness.errors import MissingError, UsageError
from harness.types import Episode

__all__ = ["Recorder", "cannot_write", "whole"]


class Recorder(ABC):
    """Writes episodes in one dataset format. The same episodes and options give the same bytes."""

    @abstractmethod
    def write(self, episodes: Iterable[Episode], folder: Path) -> Path:
        """The dataset written below `folder`, as the path to open it by; one episode is held in memory at a time.

        Raises UsageError when a dataset lies there already, when there are no episodes, or when they do not fit together.
        """


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` to write into: it becomes `target` in one rename, or is removed when the writing fails.

    Raises UsageError when `target` exists, MissingError where nothing can be written.
    """
    if target.exists():
        raise UsageError("something lies here already", where=target, expected="a path where nothing is", next="choose another folder or remove this one")
    unfinished = target.parent / f".{target.name}-unfinished-{uuid4().hex[:8]}"
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield unfinished
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def cannot_write(where: Path, error: Exception) -> MissingError:
    """The error of a disk that is full, read-only or gone; what was written of this recording is removed."""
    next = "make room or name another folder; nothing of this recording is left"
    return storage.cannot_write(error, what="a recording cannot be written", where=where, next=next)
