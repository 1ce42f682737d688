"""The leaves of an openpi checkpoint, read strictly: none missing, misshapen, left over or not finite, and no other model's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import numpy as jnp

from harness.adapters._openpi_sizes import ACTION_EXPERT, GEMMA, Sizes, infer, leaf_shapes
from harness.adapters._weights import refuse
from harness.errors import DamagedError, MissingError
from harness.layouts import orbax

__all__ = ["folder", "published", "stored_sizes"]

Shapes = Mapping[str, tuple[int, ...]]


def folder(directory: Path) -> Path:
    """The orbax folder of a checkpoint. Raises DamagedError that names another layout, MissingError when there is none."""
    if (directory / "params").is_dir():
        return directory / "params"
    if list(directory.glob("*.safetensors")):
        raise DamagedError(
            "this checkpoint has another layout than openpi's JAX one",
            where=directory,
            got=_layout(directory),
            expected="params/ in orbax's format",
            next=f"harness convert {directory} DST --to openpi",
        )
    if (directory / "_METADATA").is_file():
        what, expected = "this is the parameter folder, not the checkpoint", "the folder that holds params/"
        raise DamagedError(what, where=directory, expected=expected, next=f"pass {directory.parent}")
    got = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) if directory.is_dir() else "nothing"
    expected, next = "params/ in orbax's format", "download the whole folder"
    raise MissingError("the checkpoint has no parameters", where=directory, got=got, expected=expected, next=next)


def _layout(directory: Path) -> str:
    """The name of a safetensors checkpoint's layout, by its configuration: lerobot's says its type, openpi's does not."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if isinstance(config, dict) and "type" in config:
        return f"lerobot's layout, type {config['type']}"
    return "the PyTorch layout of openpi or of lerobot"


def stored_sizes(directory: Path) -> Sizes:
    """Sizes of the checkpoint's network from its metadata; no weight is read. Raises what `published` does."""
    where = folder(directory)
    return _sizes({name: leaf.shape for name, leaf in orbax.shapes(where).items()}, where)


def published(directory: Path) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint by upstream's name, as stored. Raises DamagedError or MissingError unless all are sound."""
    where = folder(directory)
    leaves = orbax.read(where)
    wanted = leaf_shapes(_sizes({name: np.shape(leaf) for name, leaf in leaves.items()}, where))
    refuse("leaves missing", sorted(wanted.keys() - leaves.keys()), where)
    refuse("leaves are not π0's", sorted(leaves.keys() - wanted.keys()), where)
    misshapen = {name: shape for name, shape in wanted.items() if leaves[name].shape != shape}
    refuse("leaves of another shape", [f"{name} {leaves[name].shape} instead of {shape}" for name, shape in misshapen.items()], where)
    refuse("leaves hold NaN, infinity or no floating-point numbers", [name for name, leaf in leaves.items() if not _sound(leaf)], where)
    return leaves


def _sound(leaf: np.ndarray) -> bool:
    """Finite floating-point numbers, looked at one layer at a time."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False
    return all(bool(np.isfinite(part.astype(np.float32, copy=False)).all()) for part in (leaf if leaf.ndim > 1 else leaf[None]))


def _sizes(shapes: Shapes, where: Path) -> Sizes:
    """Raises DamagedError for LoRA leaves, which are not merged, and for models of one expert."""
    if adapters := sorted(name for name in shapes if name.rpartition("/")[2].startswith("lora_")):
        what, got = "this is a LoRA run whose leaves are not merged", f"{len(adapters)} leaves, first {adapters[0]}"
        next = "add each pair's product to its weight (openpi models/lora.py) and save the tree again"
        raise DamagedError(what, where=where, got=got, expected="merged weights", next=next)
    gemma = [name for name in shapes if name.startswith(f"{GEMMA}/")]
    if gemma and not any(part.endswith(ACTION_EXPERT) for name in gemma for part in name.split("/")):
        got, expected = f"{len(gemma)} leaves of Gemma", "π0 or π0.5: a second set of leaves in _1"
        raise DamagedError("this model has one expert, as π0-FAST", where=where, got=got, expected=expected)
    return infer(shapes, where)
