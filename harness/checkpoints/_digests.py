"""Digests of values, files and folders, and the sha256 that a file was published with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

__all__ = ["canonical_digest", "directory_digest", "file_digest", "published_sha256"]


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


def published_sha256(path: Path) -> str | None:
    """The sha256 that a file was published with, 64 hex digits, if it lies in a Hugging Face cache: a link to blobs/SHA256."""
    target = path.resolve() if path.is_symlink() else path
    return target.name if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name) else None


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
