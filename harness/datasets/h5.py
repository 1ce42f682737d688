"""Robot episodes of document 003, one H5 file each: pictures, actions, event names and an instruction that may be missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from harness.datasets._base import Reader
from harness.datasets._h5_file import Frame, datasets, opened, scenario
from harness.datasets._identity import files_identity
from harness.errors import DamagedError, MissingError, UnknownNameError
from harness.pictures import Pictures
from harness.types import Broken, Sample

if TYPE_CHECKING:
    import h5py

__all__ = ["H5"]

STATE, EVENTS, INSTRUCTION = "state", "action_event_types", "language_instruction"


@final
class H5(Reader):
    """`path` is a folder of *.h5 or one such file; episodes in order of file names, ids `{stem}/{step:04d}`, the group is the scenario.

    Camera `primary` is `image_key`, and `{image_key}_NAME` is a further camera NAME. A file without an instruction gets `default_instruction`.
    `fields` hold the event's name, the scenario's parts, and success where the file has that attribute.
    Raises MissingError when there is no file, UnknownNameError for a key that the files lack.
    """

    def __init__(
        self,
        path: Path,
        *,
        default_instruction: str | None = None,
        image_key: str = "images",
        action_key: str = "actions",
        instruction_key: str = INSTRUCTION,
    ) -> None:
        self.path, self.default_instruction = Path(path), default_instruction
        self.image_key, self.action_key, self.instruction_key = image_key, action_key, instruction_key
        self.files = tuple(sorted(file for file in self.path.glob("*.h5") if not file.name.startswith("."))) if self.path.is_dir() else (self.path,)
        if not self.files or not self.files[0].is_file():
            raise MissingError("there are no H5 episodes here", where=path, expected="a folder of *.h5 files, or one such file")
        self._refuse_unknown_keys()

    def _refuse_unknown_keys(self) -> None:
        """A key must be in some file; mostly the first answers. A file that lacks what others have is Broken when it is read."""
        wanted = {self.image_key, self.action_key} | ({self.instruction_key} - {INSTRUCTION})
        known: set[str] = set()
        for file in self.files:
            try:
                with opened(file) as content:
                    known |= datasets(content).keys()
            except DamagedError:
                continue  # reading gives it as Broken
            if wanted <= known:
                return
        if known:
            raise UnknownNameError("key in these H5 episodes", min(wanted - known), known, where=self.path)

    @classmethod
    def recognises(cls, source: Path | str) -> bool:
        path = Path(source)
        return path.suffix == ".h5" and path.is_file() or path.is_dir() and any(path.glob("*.h5"))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        for path in self.files[start:stop]:
            try:
                samples = self._samples(path)
            except DamagedError as error:
                samples = [Broken(path.stem, " ".join(str(part) for part in (error.what, error.got) if part is not None), path.stem)]
            yield from samples

    def _samples(self, path: Path) -> list[Sample]:
        """The episode's samples; everything but the pictures is read now. Raises DamagedError."""
        with opened(path) as file:
            arrays = datasets(file)
            cameras = self._cameras(arrays)
            length = self._length(arrays, cameras, path)
            actions = arrays[self.action_key][()].astype(np.float32)
            states = arrays[STATE][()].astype(np.float32) if STATE in arrays else None
            events = _texts(arrays[EVENTS], path) if EVENTS in arrays else None
            texts = self._instructions(arrays, length, path)
            success = {"success": bool(file.attrs["success"])} if "success" in file.attrs else {}
        group, parts = scenario(path.stem)
        fields = {**({"scenario": parts} if parts else {}), **success}
        return [
            Sample(
                f"{path.stem}/{step:04d}",
                texts[step],
                Pictures({camera: Frame(path, key, step) for camera, key in cameras.items()}),
                state=None if states is None else states[step],
                action=actions[step],
                group=group,
                episode=path.stem,
                step=step,
                fields={**fields, **({} if events is None else {"event": events[step]})},
            )
            for step in range(length)
        ]

    def _cameras(self, arrays: Mapping[str, h5py.Dataset]) -> dict[str, str]:
        others = {key.removeprefix(f"{self.image_key}_"): key for key, array in arrays.items() if key.startswith(f"{self.image_key}_") and array.ndim == 4}
        return {"primary": self.image_key, **others}

    def _length(self, arrays: Mapping[str, h5py.Dataset], cameras: Mapping[str, str], path: Path) -> int:
        """Number of steps, at least 1 and the same in every array. Raises DamagedError."""
        if lost := [key for key in (self.image_key, self.action_key) if key not in arrays]:
            raise DamagedError(f"the file has no {lost[0]};", where=path, got=f"its keys are {', '.join(sorted(arrays))}")
        per_step = {key: arrays[key] for key in (*cameras.values(), self.action_key, STATE, EVENTS) if key in arrays}
        for key, array in per_step.items():
            if not array.shape or key in cameras.values() and (array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8):
                expected = "uint8 (steps, height, width, 3)" if key in cameras.values() else "one row per step"
                raise DamagedError(f"{key} is no array of {expected}:", where=path, got=f"{array.dtype} {array.shape}", expected=expected)
            if key in (self.action_key, STATE) and array.dtype.kind not in "biuf":
                raise DamagedError(f"{key} are no numbers:", where=path, got=array.dtype, expected="float32")
        lengths = {key: array.shape[0] for key, array in per_step.items()}
        if len(set(lengths.values())) > 1:
            raise DamagedError("lengths disagree:", where=path, got=", ".join(f"{key} {count}" for key, count in lengths.items()))
        if not (length := lengths[self.image_key]):
            raise DamagedError("the episode has no steps", where=path)
        return length

    def _instructions(self, arrays: Mapping[str, h5py.Dataset], length: int, path: Path) -> list[str]:
        """One text per step, whether the file has one for all or one for each. Raises DamagedError."""
        if self.instruction_key not in arrays:
            return [self.default_instruction or ""] * length
        texts = _texts(arrays[self.instruction_key], path)
        if len(texts) not in (1, length):
            raise DamagedError("the number of instructions is neither 1 nor that of the steps:", where=path, got=f"{len(texts)} for {length} steps")
        return texts * length if len(texts) == 1 else texts

    def identity(self) -> object:
        return files_identity(self.path if self.path.is_dir() else self.path.parent, self.files)

    def keys(self) -> dict[str, str]:
        for path in self.files:
            try:
                with opened(path) as file:
                    return {name: f"{array.dtype} {array.shape}" for name, array in datasets(file).items()}
            except DamagedError:
                continue  # the next file has the same keys; reading gives this one as Broken
        return {}


def _texts(array: h5py.Dataset, path: Path) -> list[str]:
    """The texts of an array of bytes or strings, at least 0 of them. Raises DamagedError for numbers and for bytes that are not UTF-8."""
    if array.dtype.kind not in "SOU":
        raise DamagedError(f"{array.name} is no text:", where=path, got=array.dtype)
    values = np.atleast_1d(np.asarray(array[()], dtype=object)).ravel()
    try:
        return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise DamagedError(f"{array.name} is not UTF-8:", where=path, got=str(error)) from error
