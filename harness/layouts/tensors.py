"""Arrays that are read when they are asked for, and safetensors files of them: a checkpoint passes through one tensor at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from harness.errors import DamagedError, MissingError

__all__ = ["Lazy", "load", "read", "save"]

_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_CODES = {name: code for code, name in _NAMES.items()}
_AGAIN = "download the file again"


@dataclass(frozen=True)
class Lazy:
    """An array to come: its shape and dtype are known, `read` makes it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> Lazy:
        return cls(array.shape, array.dtype, lambda: array)

    @classmethod
    def stack(cls, parts: Sequence[Lazy], shape: tuple[int, ...]) -> Lazy:
        """The parts, all of one shape and dtype, one after the other in row-major order, as one array of `shape`."""

        def join() -> np.ndarray:
            joined = np.empty((len(parts), *parts[0].shape), bits(parts[0].dtype))
            for row, part in enumerate(parts):
                joined[row] = part.read().view(joined.dtype)
            return joined.reshape(shape).view(parts[0].dtype)

        return cls(shape, parts[0].dtype, join)

    def map(self, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> Lazy:
        """The array after `change`, which only moves its elements about, to `shape`."""
        return Lazy(shape, self.dtype, lambda: change(self.read().view(bits(self.dtype))).view(self.dtype))


def bits(dtype: np.dtype) -> np.dtype:
    """The unsigned integers as wide as `dtype`: numpy moves them about, where it would go through ml_dtypes' numbers one by one."""
    return np.dtype(f"u{dtype.itemsize}")


def load(path: Path) -> dict[str, Lazy]:
    """Every tensor of a safetensors file through a memory map. Raises MissingError, DamagedError."""
    return read(path)[0]


def read(path: Path) -> tuple[dict[str, Lazy], dict[str, str]]:
    """Every tensor of a safetensors file through a memory map, and the file's own metadata. Raises MissingError, DamagedError."""
    if not path.is_file():
        raise MissingError(f"there is no {path.name}", where=path.parent, next="download the whole checkpoint folder")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 2 <= length <= size - 8 else None
            metadata = header.pop("__metadata__", {})
            tensors = {name: _mapped(path, name, 8 + length, **entry) for name, entry in header.items()}
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            expected = "a safetensors header and every byte that it announces"
            raise DamagedError("truncated or malformed safetensors file", where=path, got=error, expected=expected, next=_AGAIN) from error
    return tensors, metadata


def save(path: Path, tensors: Mapping[str, Lazy], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file of the tensors, each read, written and dropped before the next."""
    # The widest types first, as the safetensors library has it, so that every tensor lies at a multiple of its own item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {"dtype": _CODES[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            _append(file, tensors[name])


def _append(file: IO[bytes], tensor: Lazy) -> None:
    array = tensor.read()
    if array.dtype != tensor.dtype or array.shape != tensor.shape:
        raise AssertionError(f"{array.dtype} {array.shape} is not the announced {tensor.dtype} {tensor.shape}")
    np.ascontiguousarray(array.view(bits(tensor.dtype))).tofile(file)


def _mapped(path: Path, name: str, start: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> Lazy:
    if dtype not in _NAMES:
        raise ValueError(f"{name} has dtype {dtype}, which no π0 has")
    kind, size = _dtype(_NAMES[dtype], path), math.prod(shape)
    first, last = data_offsets
    if last - first != size * kind.itemsize or start + last > path.stat().st_size:
        raise ValueError(f"{name} {shape} does not end inside the file")
    if size == 0:
        return Lazy.of(np.zeros(shape, kind))
    return Lazy(tuple(shape), kind, lambda: np.memmap(path, np.uint8, "r", start + first, (last - first,)).view(kind).reshape(shape))


def _dtype(name: str, path: Path) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ModuleNotFoundError as error:
        raise MissingError("bfloat16 weights need the ml_dtypes package", where=path, next="pip install ml_dtypes") from error
    return np.dtype(ml_dtypes.bfloat16)
