"""One H5 episode file: opened for as long as a question takes, so that no handle is kept, shared between threads or pickled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.errors import DamagedError, MissingError

if TYPE_CHECKING:
    import h5py

__all__ = ["Frame", "datasets", "opened", "scenario"]

# episode_20251106_145248_1box_hori_left_core_easy.h5
_NAME = re.compile(
    r"episode_\d{8}_\d{6}_(?P<scenario>(?P<boxes>\d+)box_(?P<orientation>hori|vert)_(?P<side>left|right)_(?P<pattern>\w+)_(?P<difficulty>easy|medium|hard))"
)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading. Raises MissingError without h5py, DamagedError when it, or what is read inside, is unreadable."""
    try:
        import h5py
    except ImportError as error:
        raise MissingError("H5 episodes need the h5py package", where=path, next="pip install 'vla-harness[h5]' -c constraints.txt") from error
    try:
        with h5py.File(path, "r", locking=False) as file:  # read-only media and files that another process reads
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # the latter two for damage inside a file that opens
        raise DamagedError("an H5 file is not readable", where=path, got=str(error), expected="a whole HDF5 file", next="copy the file again") from error


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every array of the file by its key, groups in slash notation."""
    import h5py

    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, node: found.update({name: node}) if isinstance(node, h5py.Dataset) else None)
    return found


def scenario(stem: str) -> tuple[str, dict[str, Any]]:
    """The scenario's name and its parts: boxes, orientation, side, pattern, difficulty; the stem and nothing for another file name."""
    match = _NAME.fullmatch(stem)
    if match is None:
        return stem, {}
    parts = match.groupdict()
    name = parts.pop("scenario")
    return name, {**parts, "boxes": int(parts["boxes"])}


class Frame(NamedTuple):
    """One picture of a file; calling it reads that frame only, RGB uint8 (height, width, 3)."""

    path: Path
    key: str
    step: int

    def __call__(self) -> np.ndarray:
        with opened(self.path) as file:
            return np.asarray(file[self.key][self.step])
