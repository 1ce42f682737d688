"""TFRecord files without TensorFlow, whose compiler and a simulator's renderer crash each other in one process."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import final

__all__ = ["TFRecordWriter"]

ROTATION, OFFSET = 15, 0xA282EAD8  # of a stored checksum, so that a checksum of checksums stays one (TensorFlow, record_writer.h)


@final
class TFRecordWriter:
    """An open file of records: for each its length and the length's checksum, its bytes and their checksum (CRC-32C)."""

    def __init__(self, path: str | Path) -> None:
        import google_crc32c

        self._checksum = google_crc32c.value
        self._file = Path(path).open("wb")

    def write(self, record: bytes) -> None:
        length = struct.pack("<Q", len(record))
        self._file.write(length + self._stored(length) + record + self._stored(record))

    def close(self) -> None:
        self._file.close()

    def _stored(self, data: bytes) -> bytes:
        value = self._checksum(data)
        return struct.pack("<I", (((value >> ROTATION) | (value << (32 - ROTATION))) + OFFSET) & 0xFFFFFFFF)
