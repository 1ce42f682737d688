"""Feature rows from files: a tensor of document 004, a numpy array, or one member of several."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError

__all__ = ["FileRows", "is_file", "read_rows", "rows_of"]

TENSORS, ARRAYS, SUFFIXES = (".pt", ".pth"), (".npy", ".npz"), ".pt, .pth, .npy or .npz"
BLOCK = 4096  # rows


class FileRows(NamedTuple):
    """Rows (n, d) in float32 or float64, and what had to be done to them; empty if nothing."""

    values: np.ndarray
    note: str = ""


def is_file(text: str) -> bool:
    """Whether `text` means a file, there or not: PATH, or PATH:MEMBER."""
    return _parts(text)[0].suffix in (*TENSORS, *ARRAYS) or Path(text).is_file()


def read_rows(text: str) -> FileRows:
    """The rows of PATH, or of one member of it, PATH:MEMBER. Nothing in a file is run.

    Raises MissingError, DamagedError, UsageError for what is no finite (n, d) array, and UnknownNameError for a member that is not there.
    """
    path, member = _parts(text)
    if not path.is_file():
        raise MissingError("there is no file of features", where=path, next="harness extract --layout features --output_dir DIR makes feats_A.pt")
    if path.suffix not in (*TENSORS, *ARRAYS):
        raise UsageError("this is no file of features", where=path, got=path.suffix or "no suffix", expected=SUFFIXES)
    return rows_of(_member(_tensor(path), member, path) if path.suffix in TENSORS else _array(path, member), text)


def rows_of(values: Any, where: object) -> FileRows:
    """The array as rows: half precision becomes float32 and whole numbers float64, both noted. Raises UsageError."""
    told = f"{values.dtype} {tuple(values.shape)}" if hasattr(values, "shape") else type(values).__name__
    if hasattr(values, "detach"):
        values = _numpy(values.detach())
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise UsageError("these are no features", where=where, got=told, expected="an array of real numbers, (samples, width)")
    if values.ndim != 2 or 0 in values.shape:
        expected = "(samples, width), such as (5000, 7)"
        raise UsageError("these are no rows of features", where=where, got=told, expected=expected, next="a single feature is an array (n, 1)")
    kept = values.dtype in (np.float32, np.float64)
    rows = values if kept else values.astype(np.float64 if values.dtype.kind in "iub" or values.dtype.itemsize > 4 else np.float32)
    if len(wrong := _not_finite(rows)):
        got = f"{len(wrong)} of {len(rows)} rows, the first is row {wrong[0]}"
        raise UsageError("the features hold NaN or infinity", where=where, got=got, expected="finite rows")
    kind = told.partition(" ")[0].removeprefix("torch.")
    return FileRows(rows, "" if kind == str(rows.dtype) else f"{where}: {kind} was read as {rows.dtype}")


def _not_finite(rows: np.ndarray) -> np.ndarray:
    """The rows with NaN or infinity; looked at in blocks, so that a mapped file is not held."""
    starts = range(0, len(rows), BLOCK)
    return np.concatenate([start + np.flatnonzero(~np.isfinite(rows[start : start + BLOCK]).all(1)) for start in starts])


def _numpy(tensor: Any) -> np.ndarray:
    """numpy has no bfloat16 and a sparse or quantised tensor is no array: both are made plain."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized:
        tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _parts(text: str) -> tuple[Path, str]:
    """Path and member; a colon that is part of an existing path stays there."""
    path, sign, member = text.rpartition(":")
    if not sign or Path(text).exists() or Path(path).suffix not in (*TENSORS, ".npz"):
        return Path(text), ""
    return Path(path), member


def _tensor(path: Path) -> Any:
    """The content of a file that torch.save wrote, mapped rather than read where the format allows it."""
    import torch

    try:
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 is no archive
        return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:  # RuntimeError: cut short
        refused = isinstance(error, pickle.UnpicklingError)
        what = "a file names what is not opened here, and nothing of it was run" if refused else "a file of features is not readable"
        raise DamagedError(what, where=path, got=str(error).splitlines()[0][:300], expected="a tensor written by torch.save") from error


def _array(path: Path, member: str) -> Any:
    try:
        opened = np.load(path, allow_pickle=False, mmap_mode="c")
        if isinstance(opened, np.ndarray):
            return _member(np.asarray(opened), member, path)
        with opened:  # of an archive only the member is read
            return _member(opened, member, path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        got = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise DamagedError("a file of features is not readable", where=path, got=got, expected="an array of numbers written by numpy") from error


def _member(found: Any, member: str, path: Path) -> Any:
    if not isinstance(found, Mapping):
        if member:
            raise UsageError("this file holds one array and no members", where=path, got=member, expected=str(path))
        return found
    if member and member not in found:
        raise UnknownNameError("member of this file", member, map(str, found), where=path)
    if not member and len(found) != 1:
        named = ", ".join(map(str, list(found)[:12]))
        raise UsageError("this file holds several arrays", where=path, got=named or "none", expected="one of them", next=f"{path}:MEMBER names one")
    return found[member] if member else next(iter(found.values()))
