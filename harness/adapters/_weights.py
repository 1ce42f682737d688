"""Weights of a checkpoint, read strictly and completely before anything is computed; and seeded random ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness import checkpoints
from harness.errors import DamagedError, MissingError

__all__ = ["published_tensors", "random_state", "read_json", "refuse", "sound"]

_WHOLE = "download the whole checkpoint folder"


def refuse(what: str, names: Sequence[str], where: object) -> None:
    """Raises DamagedError that counts `names` and lists the first ten, unless there are none."""
    if names:
        more = f" … ({len(names)} in all)" if len(names) > 10 else ""
        raise DamagedError(f"{len(names)} {what}", where=where, got=", ".join(names[:10]) + more, expected="none")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises: MissingError without the file, DamagedError when it holds something else."""
    if not path.is_file():
        raise MissingError(f"the checkpoint has no {path.name}", where=path.parent, next=_WHOLE)
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path.name} is not JSON", where=path, got=error) from error
    if not isinstance(parsed, dict):
        raise DamagedError(f"{path.name} is no JSON object", where=path, got=type(parsed).__name__)
    return parsed


def _shards(directory: Path) -> dict[Path, set[str] | None]:
    """Each weight file, present and whole, with the tensors the index promises in it (None: there is no index)."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    shards: dict[Path, set[str] | None] = {single: None}
    if not single.is_file() and index.is_file():
        table = read_json(index).get("weight_map")
        files = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
        if not files or any(Path(name).name != name for name in files):
            raise DamagedError("the index has no usable weight_map", where=index, got=table, expected="tensor -> file of this folder")
        shards = {directory / name: {tensor for tensor, file in table.items() if file == name} for name in files}
    checkpoints.verify(directory, next=_WHOLE)
    if not index.is_file() and not single.is_file():
        raise MissingError("the checkpoint has shards but no index", where=directory, expected=index.name, next=_WHOLE)
    return shards


def published_tensors(directory: Path, *, dtype: torch.dtype, device: torch.device | str, ignored: str = r"(?!)") -> dict[str, Tensor]:
    """Every tensor of a checkpoint's safetensors under its published name, but those that match `ignored`.

    Each is checked and cast on its own, so that the stored copy never stands beside the whole cast one. Raises
    MissingError or DamagedError for files or shards that are not whole, not what the index promises, or not finite.
    """
    tensors: dict[str, Tensor] = {}
    for path, promised in _shards(directory).items():
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                names = set(file.keys())
                if promised is not None and names != promised:
                    refuse("tensors differ between the index and its shard", sorted(names ^ promised), path)
                for name in sorted(names):
                    if not re.match(ignored, name):
                        tensors[name] = sound(file.get_tensor(name), name, path, dtype)
        except SafetensorError as error:
            raise DamagedError("truncated or malformed safetensors file", where=path, got=error, next="download it again") from error
    return tensors


def sound(stored: Tensor, name: str, path: Path, dtype: torch.dtype) -> Tensor:
    """`stored` as `dtype`; DamagedError unless it holds finite floating-point numbers there."""
    cast = stored.to(dtype)
    if not stored.is_floating_point() or not bool(torch.isfinite(cast).all()):
        raise DamagedError(f"{name} holds NaN, infinity or no floating-point numbers", where=path, got=stored.dtype, expected=f"finite {dtype}")
    return cast


def random_state(shapes: Mapping[str, tuple[int, ...]], *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Weights for mock and full-size subjects in which every part matters: unit gain, norms and LayerScale about 1, no zero bias.

    The same for one seed on any machine and torch version (numpy's stream, one per tensor, keyed by its name).
    """
    state = {}
    for name, shape in shapes.items():
        x = np.random.default_rng([seed, crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
        if name.endswith("lambda1") or (len(shape) == 1 and name.endswith("weight")):
            x = 1 + 0.2 * x
        elif len(shape) == 1:
            x = 0.1 * x
        elif "embed_tokens" not in name and name.endswith("weight") and "position" not in name:
            x = x / np.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(x, dtype=np.float32)).to(device, dtype)
    return state
