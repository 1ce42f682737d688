"""Names, shapes, dtypes and sharing of a checkpoint's tensors, read from the headers of its files; no weight is read."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.checkpoints import orbax_tree
from harness.errors import DamagedError, MissingError
from harness.layouts import orbax

__all__ = ["Header", "Tensor", "read", "weight_files"]

# safetensors' dtype -> torch's name and bytes; packed kinds (below one byte) are left to transformers.
_DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "F8_E8M0": ("float8_e8m0fnu", 1), "C64": ("complex64", 8),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1),
    "U64": ("uint64", 8), "U32": ("uint32", 4), "U16": ("uint16", 2), "U8": ("uint8", 1), "BOOL": ("bool", 1),
}  # fmt: skip
_TRAINING = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")  # what trainers leave beside the weights
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_AGAIN = "download it again"


class Tensor(NamedTuple):
    """One stored tensor; `dtype` by torch's name, `storage` equal for tensors that are views of the same bytes."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    storage: tuple[object, ...]


class Header(NamedTuple):
    """The tensors of one file by published name, and the names of what else it holds (epoch, optimizer states)."""

    tensors: Mapping[str, Tensor]
    extras: tuple[str, ...] = ()


def weight_files(directory: Path) -> list[Path]:
    """The files whose tensors make up the checkpoint: one, the shards an index names, or all of one format; the folder of an orbax tree.

    Safetensors win over pickles, and what lies in `directory` over its sub-folders. Raises MissingError, DamagedError.
    """
    if (tree := orbax_tree(directory)) is not None:
        return [tree]
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = directory / f"{single}.index.json"
        if not (directory / single).is_file() and index.is_file():
            return _named_by(index)
        if (directory / single).is_file():
            return [directory / single]
    for look in (directory.glob, directory.rglob):
        found = [path for path in sorted(look("*")) if path.is_file() and not any(
            part.startswith(".") for part in path.relative_to(directory).parts
        )]
        for suffix in (".safetensors", ".pt", ".bin"):
            if weights := [path for path in found if path.suffix == suffix and not path.name.startswith(_TRAINING)]:
                return weights
    raise MissingError("the checkpoint directory holds no weights", where=directory, expected="*.safetensors, *.pt or *.bin")


def read(path: Path) -> Header:
    """The header of a safetensors or torch file, or of an orbax tree. Raises DamagedError, and MissingError without orbax."""
    if path.is_dir():
        leaves = orbax.shapes(path)
        return Header({name: Tensor(leaf.shape, leaf.dtype, _bytes(leaf), (path, name)) for name, leaf in leaves.items()})
    return _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)


def _bytes(leaf: orbax.Shape) -> int:
    return math.prod(leaf.shape) * next((size for name, size in _DTYPES.values() if name == leaf.dtype), 0)


def _named_by(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = [index.parent / name for name in names if Path(name).name == name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            "a shard index is not readable", where=index, got=repr(error), expected='JSON with "weight_map": {tensor: file}'
        ) from error
    if lost := [path.name for path in paths if not path.is_file()]:
        raise DamagedError(
            "shards are missing",
            where=index.parent,
            got=f"{len(lost)} absent: {', '.join(lost[:4])}",
            expected=f"{len(names)} shards named by {index.name}",
            next=_AGAIN,
        )
    return paths


def _safetensors(path: Path) -> Header:
    with path.open("rb") as file:
        content = file.read(int.from_bytes(file.read(8), "little"))
    try:
        entries = {name: entry for name, entry in json.loads(content).items() if name != "__metadata__"}
        spans = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
        tensors = {name: _entry(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            "a safetensors header is not readable",
            where=path,
            got=repr(error),
            expected="dtype, shape and data_offsets of every tensor",
            next=_AGAIN,
        ) from error
    end = 0
    for start, stop, name in spans:  # the format allows neither gaps nor sharing
        if start != end or stop - start != tensors[name].bytes:
            raise DamagedError(
                "a safetensors header contradicts itself",
                where=path,
                got=f"{name} at {start}:{stop}",
                expected=f"{end}:{end + tensors[name].bytes}",
                next=_AGAIN,
            )
        end = stop
    return Header({name: tensor._replace(storage=(path, name)) for name, tensor in tensors.items()})


def _entry(entry: Mapping[str, Any]) -> Tensor:
    start, stop = entry["data_offsets"]
    shape = tuple(map(int, entry["shape"]))
    dtype, size = _DTYPES.get(entry["dtype"], (str(entry["dtype"]).lower(), None))
    return Tensor(shape, dtype, stop - start if size is None else size * math.prod(shape), ())


def _pickle(path: Path) -> Header:
    """The state dict in a torch file, found at the top or under the usual names; tensors stay on the meta device."""
    import torch

    try:
        loaded = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        refused = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or str(error).splitlines()[0]
        raise DamagedError(
            "the pickle wants more than tensors: it was not run",
            where=path,
            got=refused,
            expected="a file that torch.load(weights_only=True) accepts",
            next="save its state_dict alone, on a machine that trusts it",
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise DamagedError("a torch file is truncated or malformed", where=path, got=str(error).split(". ")[0], next=_AGAIN) from error
    loaded = loaded if isinstance(loaded, Mapping) else {}
    nested = next((name for name in _NESTED if isinstance(loaded.get(name), Mapping)), None)
    state = loaded if nested is None else loaded[nested]
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise DamagedError(
            "the file holds no state dict",
            where=path,
            got=", ".join(map(str, loaded)) or "no dictionary",
            expected=f"tensors by name, at the top or under {', '.join(_NESTED)}",
        )
    extras = [*(name for name in loaded if name != nested and nested is not None), *(name for name in state if name not in tensors)]
    return Header({str(name): _stored(value, path) for name, value in tensors.items()}, tuple(sorted(map(str, extras))))


def _stored(tensor: Any, path: Path) -> Tensor:
    storage = (path, tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
    return Tensor(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.numel() * tensor.element_size(), storage)
