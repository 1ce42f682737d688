"""Write a checkpoint directory that is either complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save_file

__all__ = ["shortest_decimal", "write_checkpoint"]


def write_checkpoint(
    destination: Path, *, weights: Mapping[str, Float[np.ndarray, "..."]], documents: Mapping[str, str]
) -> None:
    """Put `weights` (float32, in `model.safetensors`) and `documents` (file name to text) into `destination`.

    The files are written into a hidden sibling that is renamed at the end: a killed conversion leaves that sibling behind,
    never half a checkpoint under the final name. An existing `destination` is left as it is.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkdtemp: its 0700 mode would survive the rename and hide a shared checkpoint from other users.
    unfinished = destination.with_name(f".{destination.name}.{token_hex(4)}")
    unfinished.mkdir()
    try:
        # safetensors writes an array's memory as it lies, so a transposed view has to be copied into its own order first.
        tensors = {name: np.ascontiguousarray(weight, dtype=np.float32) for name, weight in weights.items()}
        # transformers reads the key layout from this entry.
        save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
        for name, text in documents.items():
            (unfinished / name).write_text(text, encoding="utf-8")
            # safetensors creates its file for the owner alone; a checkpoint is as readable as the documents beside it.
            shutil.copymode(unfinished / name, unfinished / "model.safetensors")
        if not destination.exists():
            unfinished.rename(destination)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def shortest_decimal(value: float) -> float:
    """The shortest decimal that is the same float32: a stored 9.999999747378752e-06 was written as 1e-05."""
    return float(str(np.float32(value)))
