"""Parameter trees in orbax's format by their files: where they are, and whether they are whole."""

from __future__ import annotations

import json
from pathlib import Path

from harness.checkpoints._files import LFS_POINTER, refuse_pointer
from harness.errors import DamagedError

__all__ = ["orbax_tree", "verify_orbax"]

OCDBT = "manifest.ocdbt"


def orbax_tree(directory: Path) -> Path | None:
    """The folder of a checkpoint that orbax wrote its tree of parameters to, `params/` or `directory` itself; None for other formats."""
    return next((folder for folder in (directory / "params", directory) if (folder / "_METADATA").is_file() or (folder / OCDBT).is_file()), None)


def verify_orbax(tree: Path) -> None:
    """Raises DamagedError unless the tree has its description, its manifest and data, none of them empty or a pointer."""
    next = "copy the whole folder again"
    if unfinished := sorted(path.name for path in (tree, *tree.iterdir()) if ".orbax-checkpoint-tmp" in path.name):
        raise DamagedError("orbax never finished writing this checkpoint", where=tree, got=", ".join(unfinished[:4]), next=next)
    lost = [name for name in ("_METADATA", OCDBT) if not (tree / name).is_file()]
    if lost or not any(path.is_file() for folder in tree.rglob("d") for path in folder.iterdir()):
        got, expected = f"no {', '.join(lost) or 'data files'}", f"_METADATA, {OCDBT} and data in d/"
        raise DamagedError("an orbax checkpoint is not whole", where=tree, got=got, expected=expected, next=next)
    for path in sorted(file for file in tree.rglob("*") if file.is_file()):
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        refuse_pointer(path, start, path.stat().st_size)
        if not start:
            raise DamagedError("a file of an orbax checkpoint is empty", where=path, got="0 bytes", next=next)
    try:
        json.loads((tree / "_METADATA").read_text(encoding="utf-8"))["tree_metadata"]
    except (ValueError, KeyError, TypeError) as error:
        expected = 'JSON with "tree_metadata"'
        raise DamagedError("an orbax checkpoint's description is not readable", where=tree / "_METADATA", got=repr(error), expected=expected, next=next) from error
