"""The CKNNA folder of document 004: numbered PNGs, one JSON file of texts and places, one tensor of robot states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from harness.datasets._base import Reader
from harness.datasets._identity import files_identity
from harness.datasets._picture_file import PictureFile
from harness.errors import DamagedError, MissingError
from harness.pictures import Pictures
from harness.types import Broken, Sample

__all__ = ["ImageFolder"]

LISTS = ("task_descriptions", "episode_indices", "frame_indices")


@final
class ImageFolder(Reader):
    """`path` holds images/000000.png…, metadata.json and the tensor `state` (None: not read); a row is an episode of the reader.

    Samples are in row order with id `{row:06d}`; an empty task description stays empty. `episode` and `group` are the row's entry in
    episode_indices, since neighbouring rows come from one demonstration. Raises MissingError, DamagedError when opened.
    """

    shard: ClassVar[int] = 1024

    def __init__(self, path: Path, *, state: str | None = "feats_B.pt") -> None:
        self.path, self.state = Path(path), state
        for name in ("metadata.json", "images", *([] if state is None else [state])):
            if not (self.path / name).exists():
                expected = "images/, metadata.json and a tensor of states"
                raise MissingError(f"the folder has no {name}", where=path, expected=expected, next="state=None reads no states")
        self.texts, self.episodes, self.frames = _lists(self.path / "metadata.json")

    @classmethod
    def recognises(cls, source: Path | str) -> bool:
        return Path(source, "metadata.json").is_file() and Path(source, "images").is_dir()

    @cached_property
    def states(self) -> np.ndarray | None:
        """Float32 (rows, width), read on demand. Raises DamagedError."""
        if self.state is None:
            return None
        return _states(self.path / self.state, len(self.texts))

    def __len__(self) -> int:
        return len(self.texts)

    def _picture(self, row: int) -> Path:
        return self.path / "images" / f"{row:06d}.png"

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        for row in range(*slice(start, stop).indices(len(self))):
            yield self._row(row)

    def _row(self, row: int) -> Sample | Broken:
        name, episode, path = f"{row:06d}", str(self.episodes[row]), self._picture(row)
        state = None if self.states is None else self.states[row]
        if not path.is_file():
            return Broken(name, f"there is no picture {path.name}", episode)
        if state is not None and not np.isfinite(state).all():
            return Broken(name, f"row {row} of {self.state} is not finite: {state.tolist()}", episode)
        if not isinstance(self.texts[row], str):
            return Broken(name, f"the task description is no text: {self.texts[row]!r}", episode)
        return Sample(name, self.texts[row], Pictures({"primary": PictureFile(path)}), state=state, group=episode, episode=episode, step=int(self.frames[row]))

    def identity(self) -> object:
        files = [self.path / "metadata.json", *([] if self.state is None else [self.path / self.state]), *map(self._picture, range(len(self)))]
        return files_identity(self.path, files)

    def keys(self) -> dict[str, str]:
        from PIL import Image, UnidentifiedImageError

        found = {"task_descriptions": "text", "episode_indices": "int", "frame_indices": "int"}
        if self.states is not None and self.state is not None:
            found[self.state] = f"{self.states.dtype} {self.states.shape[1:]}"
        for row in range(len(self)):
            try:
                with Image.open(self._picture(row)) as picture:  # the header alone
                    return {"images": f"uint8 ({picture.height}, {picture.width}, 3)", **found}
            except (OSError, UnidentifiedImageError):
                continue  # the next picture has the same size; reading names this one
        return found


def _lists(path: Path) -> tuple[list[str], list[int], list[int]]:
    """Task descriptions, episode indices and frame indices, of one length. Raises DamagedError."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [entries[name] for name in LISTS]
        lengths = {name: len(values) for name, values in zip(LISTS, found, strict=True)}
        lengths["num_samples"] = int(entries.get("num_samples", len(found[0])))
        texts, episodes, frames = found[0], [int(value) for value in found[1]], [int(value) for value in found[2]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        expected = f"a JSON object with the lists {', '.join(LISTS)}"
        raise DamagedError("a metadata file is not readable", where=path, got=repr(error), expected=expected) from error
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise DamagedError("the lists of a metadata file disagree", where=path, got=got, expected="one length")
    return texts, episodes, frames


def _states(path: Path, rows: int) -> np.ndarray:
    import pickle

    import torch

    try:
        states = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:  # RuntimeError: cut short, or the format before 1.6
        raise DamagedError("a tensor of states is not readable", where=path, got=str(error), expected="a tensor written by torch.save") from error
    if not isinstance(states, torch.Tensor) or states.ndim != 2 or len(states) != rows:
        got = tuple(states.shape) if isinstance(states, torch.Tensor) else type(states).__name__
        raise DamagedError("a tensor of states does not fit the metadata", where=path, got=got, expected=f"({rows}, width)")
    return states.float().numpy()
