"""LeRobot datasets of version 2 and 3: rows in parquet files, pictures in them or in videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np

from harness.datasets._base import Reader
from harness.datasets._identity import files_identity
from harness.datasets._lerobot_meta import Place, inside, read_meta
from harness.datasets._lerobot_rows import Row, Unread, read_rows
from harness.datasets._lerobot_video import VideoFrame
from harness.datasets._picture_file import PictureFile
from harness.errors import UnknownNameError
from harness.pictures import Encoded, Pictures
from harness.types import Broken, Sample

__all__ = ["LeRobot"]

STATE, ACTION = "observation.state", "action"
OUTCOMES = ("next.reward", "next.done", "next.success")
WRIST = ("wrist", "hand")


@final
class LeRobot(Reader):
    """`path` is the folder with meta/info.json; ids are `{episode:06d}/{frame:06d}`, the group is the episode.

    `image_keys` says which feature is which camera. Without it a feature of pictures named after a wrist or a hand
    is `wrist`, the first other one `primary`, and the rest have the last part of their names; depth is left out.
    A row without a known task has the instruction "". `fields` hold the timestamp in seconds, and next.reward, next.done, next.success
    where the dataset has them.
    Raises MissingError, DamagedError, and UnknownNameError for a key that is no feature.
    """

    def __init__(self, path: Path, *, image_keys: Mapping[str, str] | None = None, state_key: str = STATE, action_key: str = ACTION) -> None:
        self.path, self.state_key, self.action_key = Path(path), state_key, action_key
        self.meta = read_meta(self.path)
        pictures = {name: feature for name, feature in self.meta.features.items() if feature.get("dtype") in ("image", "video")}
        self.cameras = _cameras({name: feature for name, feature in pictures.items() if not _is_depth(feature)}) if image_keys is None else dict(image_keys)
        if unknown := sorted(set(self.cameras.values()) - pictures.keys()):
            raise UnknownNameError("feature of pictures", unknown[0], pictures, where=path)
        for key, default in ((state_key, STATE), (action_key, ACTION)):
            if key not in self.meta.features and key != default:  # a dataset without states or actions is one too
                raise UnknownNameError("feature", key, self.meta.features, where=path)

    @classmethod
    def recognises(cls, source: Path | str) -> bool:
        return Path(source, "meta/info.json").is_file()

    def __len__(self) -> int:
        return len(self.meta.places)

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        places: list[Place] = []
        for place in self.meta.places[start:stop]:
            lost = next((video.path for camera in self._videos if not (video := place.videos[camera]).path.is_file()), None)
            if not place.length:
                reason = "the episode has no frames"
            elif lost is not None:
                reason = f"there is no video {lost.relative_to(self.path)}"
            else:
                places.append(place)
                continue
            yield from self._records(places)
            yield Broken(f"{place.index:06d}", reason, f"{place.index:06d}")
            places = []
        yield from self._records(places)

    @property
    def _videos(self) -> list[str]:
        return [key for key in self.cameras.values() if self.meta.features[key]["dtype"] == "video"]

    @cached_property
    def _columns(self) -> list[str]:
        wanted = {self.state_key, self.action_key, "task_index", *OUTCOMES, *self.cameras.values()}
        return sorted((wanted & self.meta.features.keys() | {"task_index"}) - set(self._videos))

    def _records(self, places: list[Place]) -> Iterator[Sample | Broken]:
        for found in read_rows(places, self._columns):
            episode = f"{found.place.index:06d}"
            if isinstance(found, Unread):
                yield Broken(episode, found.reason, episode)
                continue
            name = f"{episode}/{found.values['frame_index']:06d}"
            try:
                yield self._sample(name, episode, found)
            except (ValueError, TypeError) as error:  # a row of another type or shape than its neighbours
                yield Broken(name, str(error), episode)

    def _sample(self, name: str, episode: str, row: Row) -> Sample:
        """One frame. Raises ValueError and TypeError for a value that is none."""
        values = row.values
        return Sample(
            name,
            self.meta.tasks.get(values.get("task_index"), ""),
            Pictures({camera: self._picture(key, row, name) for camera, key in self.cameras.items()}),
            state=_vector(values.get(self.state_key)),
            action=_vector(values.get(self.action_key)),
            group=episode,
            episode=episode,
            step=int(values["frame_index"]),
            fields={"timestamp": float(values["timestamp"]), **{key: values[key] for key in OUTCOMES if values.get(key) is not None}},
        )

    def _picture(self, key: str, row: Row, name: str) -> Callable[[], np.ndarray]:
        if key in row.place.videos:
            video = row.place.videos[key]
            return VideoFrame(video.path, video.start + row.values["timestamp"], 0.5 / self.meta.fps)
        cell = row.values.get(key) or {}
        if cell.get("bytes"):
            return Encoded(cell["bytes"], f"{key} of {name} in {row.place.data}")
        if not cell.get("path"):
            raise ValueError(f"{key} holds no picture")
        if not (path := inside(self.path, cell["path"])).is_file():
            raise ValueError(f"{key} names a picture that is not there: {cell['path']}")
        return PictureFile(path)

    def identity(self) -> object:
        files = {file for file in (self.path / "meta").rglob("*") if file.is_file()}
        for place in self.meta.places:
            files |= {place.data, *(place.videos[key].path for key in self._videos)}
        return files_identity(self.path, files)

    def keys(self) -> dict[str, str]:
        return {name: f"{feature['dtype']} {tuple(feature.get('shape') or ())}" for name, feature in self.meta.features.items()}


def _cameras(features: Mapping[str, Any]) -> dict[str, str]:
    """Camera names for features of pictures, each feature under a name of its own."""
    wrists = [key for key in features if any(word in key.rpartition(".")[2].lower() for word in WRIST)]
    first = next((key for key in features if key not in wrists), None)
    named: dict[str, str] = {}
    for key in features:
        last = key.rpartition(".")[2]
        names = (["primary"] if key == first else ["wrist"] if key in wrists else []) + [last, key]
        named[next(name for name in names if name not in named)] = key
    return named


def _is_depth(feature: Mapping[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def _vector(value: object) -> np.ndarray | None:
    return None if value is None else np.atleast_1d(np.asarray(value, dtype=np.float32))
