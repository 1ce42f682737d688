"""Put a converted π0 into its folder: whole or not at all, with what the target has no place for beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import numpy as np

from harness.converters._pi0_documents import sizes_record
from harness.converters._pi0_files import LEFTOVERS, ORIGINALS, RECORD, SHARED, documents
from harness.converters._pi0_source import Checkpoint
from harness.errors import UsageError
from harness.layouts import tensors
from harness.layouts.pi0 import EMBEDDING, EXPERT_HEAD
from harness.layouts.tensors import Lazy

__all__ = ["absent", "destined", "merged", "unused_head", "write_companions"]


def absent(destination: Path) -> None:
    """Raises UsageError where there is something already."""
    if destination.exists():
        raise UsageError("the destination exists", where=destination, expected="a folder that is not there yet", next="name another one, or remove it")


@contextmanager
def destined(destination: Path) -> Iterator[Path]:
    """A hidden folder beside `destination`, which it becomes at the end; it is removed when anything fails."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = destination.with_name(f".{destination.name}.{token_hex(4)}")
    unfinished.mkdir()
    try:
        yield unfinished
        absent(destination)
        unfinished.rename(destination)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def merged(source: Checkpoint, target: str, place: Callable[[str], str | None]) -> tuple[dict[str, Lazy], dict[str, Lazy]]:
    """Leftovers that the target has a place for, by its own names, and the others.

    `place` gives the target's name of a canonical one, None where it has none; what once came from the target goes back to it.
    """
    back, still = {}, {}
    for name, tensor in source.leftovers.items():
        own = name.removeprefix(f"{target}:") if name.startswith(f"{target}:") else None if ":" in name else place(name)
        (still if own is None else back)[own or name] = tensor
    return back, still


def unused_head(source: Checkpoint) -> Lazy:
    """Zeros for the expert's vocabulary, which torch's models have and nothing reads; `conversion.json` says that they are filled in."""
    table = source.tensors[EMBEDDING]
    shape = (source.sizes.vocabulary, source.sizes.expert_width)
    return Lazy(shape, table.dtype, lambda: np.zeros(shape, table.dtype))


def write_companions(folder: Path, source: Checkpoint, target: str, *, built: Mapping[str, str], leftovers: Mapping[str, Lazy], filled: bool = False) -> None:
    """Everything but the weights: the target's own documents (as they once came, else `built`), tokenizer, originals, leftovers, record."""
    own = source.directory if source.layout == target else source.directory / ORIGINALS / target
    found = documents(own) if own.is_dir() else []
    for path in found:
        _copy(own / path, folder / path)
    for name, content in {} if found else built.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    for name in SHARED:
        if (source.directory / name).is_file():
            _copy(source.directory / name, folder / name)
    for path in sorted((source.directory / ORIGINALS).rglob("*")):
        relative = path.relative_to(source.directory)
        if path.is_file() and relative.parts[1] != target:
            _copy(path, folder / relative)
    for path in documents(source.directory) if source.layout != target else []:
        _copy(source.directory / path, folder / ORIGINALS / source.layout / path)
    if leftovers:
        tensors.save(folder / LEFTOVERS, leftovers)
    record = {"from": source.layout, "to": target, "embedding": source.embedding, "filled": [EXPERT_HEAD] if filled else []}
    record["model"] = sizes_record(source, target)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
