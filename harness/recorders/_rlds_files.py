"""Record files of one split, each closed at a certain size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, final

from harness.errors import MissingError
from harness.recorders._base import cannot_write
from harness.recorders._tfrecord import TFRecordWriter

__all__ = ["Shards", "Written"]


class Written(NamedTuple):
    """How many records each file holds, in order, and the bytes of all records."""

    lengths: list[int]
    size: int


@final
class Shards:
    """Files `{stem}.{file_format}-00000-of-00003` in `folder`; a context that closes the file that is open. Raises MissingError."""

    def __init__(self, folder: Path, stem: str, file_format: str, limit: int) -> None:
        self.folder, self.stem, self.file_format, self.limit = folder, stem, file_format, limit
        self._library = _library(file_format, folder)
        self._open: Any = None
        self._lengths: list[int] = []
        self._sizes: list[int] = []

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, record: bytes) -> None:
        """One more record, in a new file where the open one would grow over the limit."""
        if self._open is not None and self._sizes[-1] + len(record) > self.limit:
            self._close()
        try:
            if self._open is None:
                self._open = self._library.opener(str(self._path(len(self._lengths))))
                self._lengths.append(0)
                self._sizes.append(0)
            self._open.write(record)
        except self._library.errors as error:
            raise cannot_write(self.folder, error) from error
        self._lengths[-1] += 1
        self._sizes[-1] += len(record)

    def finish(self) -> Written:
        """Gives every file its final name, which says how many there are."""
        self._close()
        for number in range(len(self._lengths)):
            self._path(number).rename(self.folder / f"{self.stem}.{self.file_format}-{number:05d}-of-{len(self._lengths):05d}")
        return Written(self._lengths, sum(self._sizes))

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.stem}.{number:05d}.unfinished"

    def _close(self) -> None:
        opened, self._open = self._open, None
        try:
            if opened is not None:
                opened.close()
        except self._library.errors as error:
            raise cannot_write(self.folder, error) from error


class _Library(NamedTuple):
    """What opens a file for records, as an object with `write` and `close`, and the errors that all three raise."""

    opener: Callable[[str], Any]
    errors: tuple[type[Exception], ...]


def _library(file_format: str, where: Path) -> _Library:
    """A writer of TFRecord or ArrayRecord files. Raises MissingError."""
    try:
        if file_format == "tfrecord":
            import google_crc32c  # noqa: F401 - the writer needs it

            return _Library(TFRecordWriter, (OSError,))
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError as error:
        next = "pip install 'vla-harness[rlds]' -c constraints.txt"
        raise MissingError(f"writing {file_format} needs the {error.name} package", where=where, next=next) from error
    return _Library(lambda path: ArrayRecordWriter(path, "group_size:1"), (OSError, RuntimeError))
