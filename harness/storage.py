"""A folder of named files, on this machine or wherever fsspec reaches: what stands under a name is whole or not there."""

from __future__ import annotations

import errno
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from harness.errors import MissingError, UsageError

__all__ = ["Storage", "cannot_write", "storage", "unfinished"]

AT_ONCE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")  # an upload there replaces an object in one step


class Storage(ABC):
    """Files by name, `a/b/c`, below one folder."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All bytes of a file. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Puts a file there in one step, over an older one. Raises OSError, and then nothing has changed."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file, None when there is none."""

    @abstractmethod
    def changed(self, name: str) -> float:
        """When a file was last written, in seconds since 1970; 0 where the place does not say."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Sorted names of all files below a folder, unfinished ones left out; none when there is no such folder."""

    @abstractmethod
    def sweep(self, folder: str) -> None:
        """Removes what killed writers left unfinished in a folder; nobody else may be writing there."""

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process at a time on this machine; elsewhere nothing is held and the last of equal writers wins."""
        yield

    @abstractmethod
    def append(self, name: str, line: str) -> None:
        """Adds one line to a log; places that cannot append keep none."""


def storage(root: Path | str) -> Storage:
    """The folder at a path or an fsspec address such as s3://bucket/folder. Raises UsageError, MissingError."""
    protocol, sign, _ = str(root).partition("://")
    if not sign or protocol == "file":
        return _Local(Path(str(root).removeprefix("file://")))
    import fsspec

    try:
        return _Remote(*fsspec.core.url_to_fs(str(root)), at_once=protocol in AT_ONCE)
    except ImportError as error:
        raise MissingError("a package for this address is missing", where=root, got=error, next=f"pip install 'fsspec[{protocol}]'") from error
    except ValueError as error:
        raise UsageError("this is no address of a folder", where=root, got=error, expected="a path, or an address that fsspec knows") from error


@final
class _Local(Storage):
    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(unfinished(path.name))
        try:
            temporary.write_bytes(data)
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def changed(self, name: str) -> float:
        return (self.root / name).stat().st_mtime

    def names(self, folder: str = "") -> list[str]:
        found = (self.root / folder).rglob("*") if (self.root / folder).is_dir() else ()
        return sorted(path.relative_to(self.root).as_posix() for path in found if path.is_file() and not path.name.startswith("."))

    def sweep(self, folder: str) -> None:
        for path in (self.root / folder).glob(".*.tmp"):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        from filelock import FileLock

        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield

    def append(self, name: str, line: str) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / name).open("a", encoding="utf-8") as file:  # one short append is atomic on POSIX
            file.write(line + "\n")


@final
class _Remote(Storage):
    def __init__(self, system: object, root: str, *, at_once: bool) -> None:
        self.system, self.root, self.at_once = system, root.rstrip("/"), at_once

    def read(self, name: str) -> bytes:
        return self.system.cat_file(f"{self.root}/{name}")

    def write(self, name: str, data: bytes) -> None:
        path = f"{self.root}/{name}"
        if self.at_once:
            self.system.pipe_file(path, data)
            return
        folder, _, file = path.rpartition("/")
        self.system.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/{unfinished(file)}"
        self.system.pipe_file(temporary, data)
        self.system.mv(temporary, path)

    def size(self, name: str) -> int | None:
        path = f"{self.root}/{name}"
        return self.system.size(path) if self.system.isfile(path) else None

    def changed(self, name: str) -> float:
        try:
            return self.system.modified(f"{self.root}/{name}").timestamp()
        except NotImplementedError:
            return 0.0

    def names(self, folder: str = "") -> list[str]:
        self.system.invalidate_cache()
        found = self.system.find(f"{self.root}/{folder}".rstrip("/"))
        inside = [path[path.index(self.root) + len(self.root) + 1 :] for path in found]
        return sorted(name for name in inside if not name.rpartition("/")[2].startswith("."))

    def sweep(self, folder: str) -> None:
        path = f"{self.root}/{folder}"
        for name in [] if self.at_once or not self.system.isdir(path) else self.system.ls(path, detail=False):
            if name.rpartition("/")[2].startswith(".") and name.endswith(".tmp"):
                self.system.rm_file(name)

    def append(self, name: str, line: str) -> None:
        """Nothing: objects cannot be appended to."""


def unfinished(name: str) -> str:
    """The name of a file on its way; containers share process numbers, so the machine's is part of it."""
    return f".{name}.{platform.node()}.{os.getpid()}.tmp"


def cannot_write(error: Exception, *, what: str, where: object, next: str) -> MissingError:
    """The error of a disk that is full, read-only or gone; `what` is said where its number does not tell which."""
    known = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the destination is read-only"}
    got = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    return MissingError(known.get(getattr(error, "errno", None), what), where=where, got=got, next=next)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
