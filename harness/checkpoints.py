"""Integrity before any load: a checkpoint's files are what they claim to be, and one digest says which they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from harness.errors import DamagedError, MissingError

__all__ = ["canonical_digest", "directory_digest", "file_digest", "verify"]

LFS_POINTER = b"version https://git-lfs"


def canonical_digest(value: object) -> str:
    """blake3 of a JSON-able value, independent of key order; 64 hex digits."""
    from blake3 import blake3

    return blake3(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """blake3 of a file's bytes, read through a memory map by all cores; 64 hex digits."""
    from blake3 import blake3

    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def directory_digest(directory: Path, memory: Path | None = None) -> str:
    """One digest over the names and bytes of a checkpoint's files, hidden ones and locks left out; 64 hex digits.

    With `memory`, a JSON file remembers digests by size and modification time, so that 15 GB are read once.
    """
    remembered = _read_memory(memory)
    known: dict[str, str] = {}
    digests = []
    for path in sorted(file for file in directory.rglob("*") if file.is_file() and not _is_litter(file.relative_to(directory))):
        stat = path.stat()
        identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        known[identity] = remembered.get(identity) or file_digest(path)
        digests.append((path.relative_to(directory).as_posix(), known[identity]))
    if memory is not None and not known.items() <= remembered.items():
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**remembered, **known}, indent=1))
        temporary.replace(memory)
    return canonical_digest(digests)


def verify(directory: Path, *, next: str | None = None) -> None:
    """Every weight file of a checkpoint directory is present and whole, by its header alone; nothing is loaded.

    Raises MissingError for an absent or empty directory, DamagedError for an LFS pointer, a truncated or padded
    safetensors file, or a shard that the index names and the directory lacks.
    """
    if not directory.is_dir():
        raise MissingError("there is no checkpoint here", where=directory, expected="a directory with config.json and weights", next=next)
    files = sorted(directory.rglob("*.safetensors"))
    for index in directory.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError("a shard index is not readable", where=index, got=repr(error), expected='JSON with "weight_map": {tensor: file}', next=next) from error
        if lost := sorted(named - {file.name for file in files}):
            raise DamagedError("shards are missing", where=directory, got=f"{len(lost)} absent: {', '.join(lost[:4])}", expected=f"{len(named)} shards named by {index.name}", next=next)
    if not files:
        raise MissingError("the checkpoint directory holds no weights", where=directory, got=_listing(directory), expected="*.safetensors", next=next)
    for file in files:
        _verify_safetensors(file)


def _verify_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise DamagedError("this is a git-lfs pointer, not the weights", where=path, got=f"{size} bytes of text", next="git lfs pull")
        length = int.from_bytes(start[:8], "little")
        file.seek(8)
        if size < 8 or length > size - 8:
            raise DamagedError("a safetensors file ends inside its header", where=path, got=f"{size} bytes", expected=f"a header of {length} bytes")
        try:
            header = json.loads(file.read(length))
            end = max((int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DamagedError("a safetensors header is not readable", where=path, got=repr(error), expected="JSON with data_offsets for every tensor") from error
    if size != 8 + length + end:
        kind = "truncated" if size < 8 + length + end else "padded"
        raise DamagedError(f"a safetensors file is {kind}", where=path, got=f"{size} bytes", expected=f"{8 + length + end} bytes")


def _read_memory(memory: Path | None) -> dict[str, str]:
    if memory is None or not memory.exists():
        return {}
    try:
        remembered = json.loads(memory.read_text())
    except ValueError:  # only a cache: a damaged one is rebuilt
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _is_litter(path: Path) -> bool:
    return path.suffix == ".lock" or any(part.startswith(".") for part in path.parts)


def _listing(directory: Path) -> str:
    names: Iterable[str] = sorted(path.name for path in directory.iterdir())
    return ", ".join(names) or "an empty directory"
