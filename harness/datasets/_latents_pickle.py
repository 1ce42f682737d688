"""Pickles of plain containers and numpy arrays, read without running what they name and without reading their large arrays."""

from __future__ import annotations

import pickle
import re
import secrets
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np

from harness.errors import DamagedError, MissingError

__all__ = ["Latent", "read_pickle"]

LAZY_ABOVE = 2**15  # bytes; smaller than the pieces in which an unpickler may ask for a large array
ALLOWED = "numpy arrays and numbers, dictionaries, lists, tuples, sets, text, bytes, numbers"


class Latent(NamedTuple):
    """An array in a file; calling it reads that array alone."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool = False

    def __call__(self) -> np.ndarray:
        count = prod(self.shape)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = np.fromfile(file, self.dtype, count)
        if len(data) != count:
            got, expected = f"{len(data)} values at {self.offset}", count
            raise DamagedError("a file of latents is cut short", where=self.path, got=got, expected=expected, next="copy the file again")
        return data.reshape(self.shape, order="F" if self.fortran else "C")


def read_pickle(path: Path) -> Any:
    """The content of a pickle: containers, with a `Latent` in place of every array of more than 32 KiB.

    Only plain containers and numpy arrays are built; a pickle that names anything else is refused before it can run.
    Raises DamagedError, and MissingError where its arrays are of a type that another package defines.
    """
    try:
        with path.open("rb") as file:
            return _resolved(_Unpickler(_Places(file), path).load(), path)
    except _UNREADABLE as error:
        got = f"{type(error).__name__}: {error}"
        raise DamagedError("a pickle is not readable", where=path, got=got, expected=f"a whole pickle of {ALLOWED}", next="copy the file again") from error


# What a damaged pickle makes the unpickler raise, found by cutting one at every place and flipping its bits.
_UNREADABLE = (
    pickle.UnpicklingError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    ImportError,
    RecursionError,
    SystemError,
)


@final
class _Places:
    """A file that does not read large byte strings: it leaves a secret mark in their place and remembers where they lie."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.mark = secrets.token_bytes(16)

    def read(self, count: int = -1) -> bytes:
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()

    def readinto(self, buffer: bytearray | memoryview) -> int:
        view = memoryview(buffer)
        offset = self.file.tell()
        if len(view) <= LAZY_ABOVE:
            data = self.file.read(len(view))
            view[: len(data)] = data
            return len(data)
        view[:24] = self.mark + offset.to_bytes(8, "little")
        self.file.seek(len(view), 1)  # past the end of a file cut short too: the next opcode is missing then
        return len(view)

    def place(self, data: Any) -> int | None:
        """The offset of a byte string that was not read."""
        marked = isinstance(data, bytes | bytearray) and len(data) > LAZY_ABOVE and data[:16] == self.mark
        return int.from_bytes(data[16:24], "little") if marked else None


@final
class _Dtype:
    """Stands for a numeric dtype: `kind` such as f4 or a scalar type, and the byte order of its state."""

    def __init__(self, kind: object, *flags: object) -> None:
        if not (isinstance(kind, str) and re.fullmatch("[?biufc][0-9]{0,2}", kind) or isinstance(kind, type)):
            raise pickle.UnpicklingError(f"values of no numeric type: {kind!r}")
        self.found = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.found = self.found.newbyteorder(state[1])


@final
class _Array:
    """Stands for a numpy array while the pickle is read: what its state says, no memory of its own."""

    def __init__(self, places: _Places) -> None:
        self.places = places
        self.found: tuple[tuple[int, ...], np.dtype, bool, bytes, int | None] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.fill(shape, dtype, bool(fortran), data)

    def fill(self, shape: tuple[int, ...], dtype: Any, fortran: bool, data: Any) -> None:
        dtype = _numeric(dtype)
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("an array of objects")
        if len(data) != prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError(f"{len(data)} bytes for {dtype} {shape}")
        place = self.places.place(data)
        self.found = (tuple(map(int, shape)), dtype, fortran, b"" if place is not None else bytes(data), place)

    def resolved(self, path: Path) -> np.ndarray | Latent:
        if self.found is None:
            raise pickle.UnpicklingError("an array without content")
        shape, dtype, fortran, data, place = self.found
        if place is not None:
            return Latent(path, place, shape, dtype, fortran)
        return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Builds plain containers, and stand-ins for arrays; every other name is refused."""

    def __init__(self, places: _Places, path: Path) -> None:
        super().__init__(places)
        self.places, self.path = places, path

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module).replace("numpy._core", "numpy.core")  # Python 2's name, and numpy 2's
        known = {
            ("numpy.core.multiarray", "_reconstruct"): self._reconstruct,
            ("numpy.core.numeric", "_frombuffer"): self._frombuffer,
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): self._encode,
            **{("builtins", kind.__name__): kind for kind in (set, frozenset, bytes, bytearray, complex)},
        }
        if (module, name) in known:
            return known[module, name]
        if (module, name) == ("ml_dtypes", "bfloat16"):
            try:
                import ml_dtypes
            except ImportError as error:
                raise MissingError("bfloat16 latents need the ml_dtypes package", where=self.path, next="pip install ml_dtypes") from error
            return ml_dtypes.bfloat16
        raise DamagedError(
            "a pickle names what is not opened here, and nothing of it was run",
            where=self.path,
            got=f"{module}.{name}",
            expected=ALLOWED,
            next="if you trust the file, load it in the environment that wrote it and save plain arrays",
        )

    def _reconstruct(self, kind: object, shape: object, code: object) -> _Array:
        return _Array(self.places)

    def _frombuffer(self, data: Any, dtype: Any, shape: tuple[int, ...], order: str) -> _Array:
        array = _Array(self.places)
        array.fill(shape, dtype, order == "F", data)
        return array

    def _scalar(self, dtype: Any, data: Any) -> np.generic:
        return np.frombuffer(data, _numeric(dtype))[0]

    def _encode(self, text: str, encoding: str = "latin1") -> bytes:
        """How protocol 2 writes byte strings; no other codec is looked up."""
        return text.encode("latin1")


def _numeric(dtype: object) -> np.dtype:
    if not isinstance(dtype, _Dtype) or dtype.found.hasobject:
        raise pickle.UnpicklingError(f"values of no numeric type: {dtype!r}")
    return dtype.found


def _resolved(value: Any, path: Path) -> Any:
    """The same containers with arrays in place of their stand-ins."""
    if isinstance(value, _Array):
        return value.resolved(path)
    if isinstance(value, dict):
        return {key: _resolved(entry, path) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_resolved(entry, path) for entry in value)
    return value
