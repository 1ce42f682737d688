"""Weight and configuration files by their headers alone: whole, and what they claim to be."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from harness.errors import DamagedError

__all__ = ["LFS_POINTER", "refuse_pointer", "verify_archive", "verify_config", "verify_safetensors"]

LFS_POINTER = b"version https://git-lfs"
ZIP_END = 22  # bytes of a zip's end record without a comment, which torch.save never writes
ZIP_TRAILERS = (0, 12, 16, 20, 24)  # bytes of a data descriptor, if any, behind a member


def verify_config(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    refuse_pointer(path, content, len(content))
    try:
        json.loads(content)
    except ValueError as error:
        expected = "the configuration that was published with the weights"
        raise DamagedError("config.json is not JSON", where=path, got=error, expected=expected) from error


def refuse_pointer(path: Path, start: bytes, size: int) -> None:
    if start.startswith(LFS_POINTER):
        raise DamagedError("this is a git-lfs pointer, not the file", where=path, got=f"{size} bytes of text", next="git lfs pull")


def verify_archive(path: Path) -> None:
    """A file of torch.save: a zip whose members, one behind the other, and directory fill it exactly."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        refuse_pointer(path, start, size)
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


def verify_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        refuse_pointer(path, start, size)
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
