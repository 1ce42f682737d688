"""Episodes written as document 003 has them: one H5 file each, with pictures, actions, event names and the instruction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from harness.errors import MissingError, UsageError
from harness.recorders._base import Recorder, whole
from harness.types import Episode, Sample

if TYPE_CHECKING:
    import h5py

__all__ = ["H5Recorder"]

TEXT_BYTES = 256  # the documented width of the instruction; a longer one widens the field rather than losing its end


@final
class H5Recorder(Recorder):
    """Writes `FOLDER/h5/{episode id made safe}.h5`; pictures are resized to `picture_size` (height, width) where it is given.

    Camera `primary` becomes `images`, another one `images_NAME`; robot states become `state`, success an attribute.
    Further fields of a step have no place in this layout.
    """

    def __init__(self, *, picture_size: tuple[int, int] | None = None) -> None:
        self.picture_size = picture_size

    def write(self, episodes: Iterable[Episode], folder: Path) -> Path:
        try:
            import h5py
        except ImportError as error:
            raise MissingError("H5 episodes need the h5py package", where=folder, next="pip install 'vla-harness[h5]' -c constraints.txt") from error
        target = Path(folder) / "h5"
        with whole(target) as unfinished:
            written: dict[str, str] = {}
            for episode in episodes:
                stem = re.sub(r"[^\w.-]+", "_", episode.id, flags=re.ASCII).lstrip(".") or "episode"
                if stem in written:
                    got = f"{written[stem]} and {episode.id}"
                    raise UsageError("two episodes would become one file", where=target / f"{stem}.h5", got=got, expected="ids that differ")
                written[stem] = episode.id
                with h5py.File(unfinished / f"{stem}.h5", "w") as file:
                    self._fill(file, episode)
            if not written:
                raise UsageError("there are no episodes to write", where=target)
        return target

    def _fill(self, file: h5py.File, episode: Episode) -> None:
        """One episode; a picture at a time is held in memory. Raises UsageError when its steps do not fit together."""
        if not episode.steps:
            raise UsageError("an episode has no steps", where=episode.id, expected="at least one")
        for camera in episode.steps[0].images:
            self._pictures(file, episode, camera)
        file.create_dataset("actions", data=_rows(episode, "action"))
        if any(step.state is not None for step in episode.steps):
            file.create_dataset("state", data=_rows(episode, "state"))
        events = [_event(number, step) for number, step in enumerate(episode.steps)]
        file.create_dataset("action_event_types", data=np.array(events, dtype=object), dtype=_h5_text())
        text = episode.instruction.encode("utf-8")
        file.create_dataset("language_instruction", data=np.array([text], dtype=f"S{max(TEXT_BYTES, len(text))}"))
        if episode.success is not None:
            file.attrs["success"] = episode.success

    def _pictures(self, file: h5py.File, episode: Episode, camera: str) -> None:
        pictures = None
        for number, step in enumerate(episode.steps):
            if step.images.keys() != episode.steps[0].images.keys():
                got, expected = ", ".join(step.images) or "none", ", ".join(episode.steps[0].images)
                raise UsageError("the cameras of an episode's steps differ", where=f"{episode.id}, step {number}", got=got, expected=expected)
            picture = self._resized(step.images[camera])
            if pictures is None:
                shape = (len(episode.steps), *picture.shape)
                name = "images" if camera == "primary" else f"images_{camera}"
                pictures = file.create_dataset(name, shape, np.uint8, chunks=(1, *picture.shape), compression="gzip", compression_opts=4)
            if picture.shape != pictures.shape[1:]:
                where, next = f"{episode.id}, step {number}", "give picture_size=(height, width)"
                raise UsageError("pictures of one episode differ in size", where=where, got=picture.shape, expected=pictures.shape[1:], next=next)
            pictures[number] = picture

    def _resized(self, picture: np.ndarray) -> np.ndarray:
        if self.picture_size is None or picture.shape[:2] == self.picture_size:
            return picture
        from PIL import Image

        height, width = self.picture_size
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _rows(episode: Episode, name: str) -> np.ndarray:
    """`action` or `state` of every step, float32 (steps, width). Raises UsageError when one lacks it or has another width."""
    rows = [getattr(step, name) for step in episode.steps]
    shapes = {None if row is None else np.shape(row) for row in rows}
    if len(shapes) > 1 or None in shapes:
        got = ", ".join(map(str, shapes))
        raise UsageError(f"the {name} of an episode's steps differ in shape", where=episode.id, got=got, expected="one shape for every step")
    return np.stack(rows).astype(np.float32)


def _event(number: int, step: Sample) -> str:
    return str(step.fields.get("event", "start_action" if number else "episode_start"))


def _h5_text() -> np.dtype:
    import h5py

    return h5py.string_dtype("utf-8")
