"""Integrity before any load: a checkpoint's files are what they claim to be, and one digest says which they are."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from harness.errors import DamagedError, MissingError

__all__ = ["canonical_digest", "directory_digest", "file_digest", "locate", "orbax_tree", "published_sha256", "verify", "verify_digests"]

LFS_POINTER = b"version https://git-lfs"
OCDBT = "manifest.ocdbt"
CACHED = "models--"  # how a Hugging Face cache names the folder of a repository
ZIP_END = 22  # bytes of a zip's end record without a comment, which torch.save never writes
ZIP_TRAILERS = (0, 12, 16, 20, 24)  # bytes of a data descriptor, if any, behind a member


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


def locate(directory: Path) -> Path:
    """The folder that holds the files: of a Hugging Face cache (`models--ORG--NAME`) its one whole snapshot, else `directory`.

    The snapshot that `refs/main` names goes first. Raises MissingError for a cache without any file, DamagedError for an
    unfinished download and for several snapshots of which none is main.
    """
    if not directory.name.startswith(CACHED) or not directory.is_dir():
        return directory
    snapshots = sorted(path for path in directory.glob("snapshots/*") if path.is_dir())
    main = directory / "refs/main"
    named = directory / "snapshots" / main.read_text(encoding="utf-8").strip() if main.is_file() else None
    found = [named] if named in snapshots else snapshots
    if not found:
        kind = DamagedError if list(directory.rglob("*.incomplete")) else MissingError
        expected = "snapshots/REVISION with the files of the repository"
        raise kind("a download that never finished", where=directory, got=_leavings(directory), expected=expected, next=_fetch(directory))
    if len(whole := [path for path in found if not _dangling(path)]) > 1:
        names, next = ", ".join(path.name for path in whole), "pass the folder of one of them"
        raise DamagedError("the cache holds several snapshots, none of them main", where=directory, got=names, expected="one", next=next)
    for path in [] if whole else found:
        _verify_links(path)
    return whole[0]


def verify(directory: Path, *, next: str | None = None) -> None:
    """Every weight file of a checkpoint directory is present and whole, by its header alone; nothing is loaded.

    Weights are `.safetensors` and torch's `.pt`, or `.bin` where there are neither, or an orbax tree; a Hugging Face cache
    stands for its snapshot. Raises MissingError for an absent or empty directory, DamagedError for an LFS pointer, a truncated or padded file,
    a web page, a shard that the index names and the directory lacks, an unfinished download, a config.json that is no JSON.
    """
    directory = locate(directory)
    if not directory.is_dir():
        raise MissingError("there is no checkpoint here", where=directory, expected="a directory with config.json and weights", next=next)
    _verify_links(directory)
    _verify_config(directory / "config.json")
    if (tree := orbax_tree(directory)) is not None:
        return _verify_orbax(tree)
    shards = sorted(directory.rglob("*.safetensors"))
    for index in directory.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError("a shard index is not readable", where=index, got=repr(error), expected='JSON with "weight_map": {tensor: file}', next=next) from error
        if lost := sorted(named - {file.name for file in shards}):
            raise DamagedError("shards are missing", where=directory, got=f"{len(lost)} absent: {', '.join(lost[:4])}", expected=f"{len(named)} shards named by {index.name}", next=next)
    archives = sorted(directory.rglob("*.pt"))
    if not shards and not archives and not (archives := sorted(directory.rglob("*.bin"))):
        if (cache := _cache(directory)) is not None and list(cache.rglob("*.incomplete")):
            got, expected = _leavings(cache), "the weights"
            raise DamagedError("a download that never finished", where=directory, got=got, expected=expected, next=_fetch(cache))
        got, expected = _listing(directory), "*.safetensors, *.pt, *.bin or an orbax tree in params/"
        raise MissingError("the checkpoint directory holds no weights", where=directory, got=got, expected=expected, next=next)
    for file in shards:
        _verify_safetensors(file)
    for file in archives:
        _verify_archive(file)


def orbax_tree(directory: Path) -> Path | None:
    """The folder of a checkpoint that orbax wrote its tree of parameters to, `params/` or `directory` itself; None for other formats."""
    return next((folder for folder in (directory / "params", directory) if (folder / "_METADATA").is_file() or (folder / OCDBT).is_file()), None)


def published_sha256(path: Path) -> str | None:
    """The sha256 that a file was published with, 64 hex digits, if it lies in a Hugging Face cache: a link to blobs/SHA256."""
    target = path.resolve() if path.is_symlink() else path
    return target.name if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name) else None


def verify_digests(directory: Path, progress: Callable[[int, int, str], None] | None = None) -> int:
    """Reads every file that was published with a sha256 and compares; how many there were. Raises DamagedError for another content.

    `progress` is called with bytes done, bytes in all and the file's name.
    """
    files = {path: digest for path in sorted(locate(directory).rglob("*")) if path.is_file() and (digest := published_sha256(path))}
    done, total = 0, sum(path.stat().st_size for path in files)
    for path, published in files.items():
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
                done += len(block)
                if progress is not None:
                    progress(done, total, path.name)
        if digest.hexdigest() != published:
            got, next = f"sha256 {digest.hexdigest()}", f"delete {path.resolve()}, then {_fetch(path)}"
            raise DamagedError("a file is not what was published", where=path, got=got, expected=published, next=next)
    return len(files)


def _cache(path: Path) -> Path | None:
    """The folder `models--ORG--NAME` of a Hugging Face cache that `path` is or lies in."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.name.startswith(CACHED)), None)


def _fetch(path: Path) -> str | None:
    cache = _cache(path)
    return None if cache is None else f"harness download {cache.name.removeprefix(CACHED).replace('--', '/', 1)}"


def _leavings(cache: Path) -> str:
    counts = {"unfinished files": "*.incomplete", "locks": "*.lock"}
    found = [f"{count} {what}" for what, pattern in counts.items() if (count := len(list(cache.rglob(pattern))))]
    return " and ".join(found) or _listing(cache)


def _dangling(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_symlink() and not path.exists())


def _verify_links(directory: Path) -> None:
    if lost := _dangling(directory):
        got = f"{len(lost)}: {', '.join(str(path.relative_to(directory)) for path in lost[:4])}"
        raise DamagedError("files are links to nothing", where=directory, got=got, expected="whole files", next=_fetch(directory))


def _verify_config(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    _refuse_pointer(path, content, len(content))
    try:
        json.loads(content)
    except ValueError as error:
        expected = "the configuration that was published with the weights"
        raise DamagedError("config.json is not JSON", where=path, got=error, expected=expected) from error


def _refuse_pointer(path: Path, start: bytes, size: int) -> None:
    if start.startswith(LFS_POINTER):
        raise DamagedError("this is a git-lfs pointer, not the file", where=path, got=f"{size} bytes of text", next="git lfs pull")


def _verify_orbax(tree: Path) -> None:
    """Raises DamagedError unless the tree has its description, its manifest and data, none of them empty or a pointer."""
    next = "copy the whole folder again"
    if unfinished := sorted(path.name for path in (tree, *tree.iterdir()) if ".orbax-checkpoint-tmp" in path.name):
        raise DamagedError("orbax never finished writing this checkpoint", where=tree, got=", ".join(unfinished[:4]), next=next)
    lost = [name for name in ("_METADATA", OCDBT) if not (tree / name).is_file()]
    if lost or not any(path.is_file() for folder in tree.rglob("d") for path in folder.iterdir()):
        got, expected = f"no {', '.join(lost) or 'data files'}", f"_METADATA, {OCDBT} and data in d/"
        raise DamagedError("an orbax checkpoint is not whole", where=tree, got=got, expected=expected, next=next)
    for path in sorted(file for file in tree.rglob("*") if file.is_file()):
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        _refuse_pointer(path, start, path.stat().st_size)
        if not start:
            raise DamagedError("a file of an orbax checkpoint is empty", where=path, got="0 bytes", next=next)
    try:
        json.loads((tree / "_METADATA").read_text(encoding="utf-8"))["tree_metadata"]
    except (ValueError, KeyError, TypeError) as error:
        expected = 'JSON with "tree_metadata"'
        raise DamagedError("an orbax checkpoint's description is not readable", where=tree / "_METADATA", got=repr(error), expected=expected, next=next) from error


def _verify_archive(path: Path) -> None:
    """A file of torch.save: a zip whose members, one behind the other, and directory fill it exactly."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        _refuse_pointer(path, start, size)
        if not start.startswith(b"PK\x03\x04"):
            other = f"a file that begins with {start[:8]!r}" if size else "an empty file"
            kind = "a web page" if start.lstrip().startswith(b"<") else other
            expected, next = "a zip archive of torch.save", "download it again, or torch.save it with torch 1.6 or later"
            raise DamagedError(f"this is {kind}, not the weights", where=path, got=f"{size} bytes", expected=expected, next=next)
        file.seek(max(0, size - ZIP_END))
        try:
            if not re.fullmatch(rb"PK\x05\x06.{16}\0\0", file.read(), re.DOTALL):
                raise BadZipFile("its directory does not end where the file ends")
            with ZipFile(file) as archive:
                members = sorted((member.header_offset, member.compress_size, member.filename) for member in archive.infolist())
                _verify_members(file, members, archive.start_dir)
        except (BadZipFile, struct.error, OSError, ValueError) as error:
            got, next = f"{error} ({size} bytes)", "download it again"
            raise DamagedError("an archive of weights is truncated, padded or altered", where=path, got=got, next=next) from error
    if not any(name.endswith("data.pkl") for _, _, name in members):
        got = ", ".join(name for _, _, name in members[:4])
        raise DamagedError("this zip holds no weights", where=path, got=got, expected="data.pkl, as torch.save writes it")


def _verify_members(file: BinaryIO, members: list[tuple[int, int, str]], end: int) -> None:
    """Raises BadZipFile unless the members follow each other from the first byte to `end` without a gap or an overlap."""
    reached, trailers = 0, (0,)
    for offset, length, name in [*members, (end, 0, "the directory")]:
        if offset - reached not in trailers:
            raise BadZipFile(f"{name} lies at byte {offset}, not behind the member before it")
        if name != "the directory":
            file.seek(offset)
            signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
            if signature != b"PK\x03\x04":
                raise BadZipFile(f"{name} is not at byte {offset}")
            reached, trailers = offset + 30 + name_length + extra_length + length, ZIP_TRAILERS


def _verify_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        _refuse_pointer(path, start, size)
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
