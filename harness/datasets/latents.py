"""Rollouts of documents 001 and 002 with the model's latents: one pickle per task, read without unpickling freely."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from harness.datasets._base import Reader
from harness.datasets._identity import files_identity
from harness.datasets._latents_pickle import Latent, read_pickle
from harness.errors import DamagedError, MissingError
from harness.pictures import Pictures
from harness.types import Broken, Sample

__all__ = ["Latents"]

CAMERAS = {"primary": "agentview_image", "wrist": "wrist_image"}
OWN = ("timestep", "action", "observation")  # of a step; whatever else it holds are latents


class _Rollout(NamedTuple):
    """One episode of one file, or the reason why the file has none."""

    path: Path
    name: str
    content: Mapping[str, Any]
    description: str
    fields: Mapping[str, Any]
    reason: str = ""


class _Stored(NamedTuple):
    """A small picture that the pickle's reading has kept."""

    array: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.array.copy()


@final
class Latents(Reader):
    """`path` is a folder of task_{id}_{name}.pkl or one such file; ids are `{stem}/{episode}/{step:04d}`, the group is the episode.

    A sample is a step that was kept. Its number is that of its key `step_{t}`: the environment's step, which begins after the wait and
    leaves gaps, not its place among the keys. `state` is all that was recorded, the gripper's position (3,); `action` is the first of the chunk.
    `fields["latents"]` maps `vlm_layer_output.hidden_states` and its like to arrays, or to callables with shape and dtype that read a large one.
    The file's word on success is left out: the collector never sets it. Raises MissingError when there is no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        found = self.path.glob("task_*.pkl") if self.path.is_dir() else [self.path]
        self.files = tuple(sorted(found, key=lambda file: (_number(file.stem.removeprefix("task_")), file.name)))
        if not self.files or not self.files[0].is_file():
            raise MissingError("there are no latents here", where=path, expected="a folder of task_{id}_{name}.pkl, or one such file")

    @classmethod
    def recognises(cls, source: Path | str) -> bool:
        path = Path(source)
        named = path.glob("task_*.pkl") if path.is_dir() else [path] if path.is_file() else []
        return any(re.fullmatch(r"task_\d+_.*\.pkl", file.name) for file in named)

    @cached_property
    def _episodes(self) -> tuple[_Rollout, ...]:
        """Every episode of every file: the structure without the large arrays."""
        return tuple(episode for file in self.files for episode in _episodes(file))

    def __len__(self) -> int:
        return len(self._episodes)

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        for rollout in self._episodes[start:stop]:
            if rollout.reason or not rollout.content:
                yield Broken(rollout.name, rollout.reason or "the episode has no steps", rollout.name)
                continue
            for key, step in sorted(rollout.content.items(), key=lambda item: _number(str(item[0]).removeprefix("step_"))):
                try:
                    yield _sample(rollout, str(key), step)
                except (ValueError, TypeError, AttributeError, KeyError) as error:
                    yield Broken(f"{rollout.name}/{key}", str(error), rollout.name)

    def identity(self) -> object:
        return files_identity(self.path if self.path.is_dir() else self.path.parent, self.files)

    def keys(self) -> dict[str, str]:
        for rollout in self._episodes:
            for step in rollout.content.values():
                return {name: _described(value) for name, value in _leaves(step)}
        return {}


def _episodes(path: Path) -> Iterator[_Rollout]:
    try:
        content = read_pickle(path)
        description, episodes = content["task_description"], content["episodes"]
        fields = {key: content[key] for key in ("task_id", "task_name") if key in content}
        if not isinstance(description, str) or not isinstance(episodes, dict) or not episodes:
            raise TypeError("no task_description or no episodes")
        found = [(str(name), episode["rollout_steps"].items()) for name, episode in episodes.items()]
    except DamagedError as error:
        return (yield _Rollout(path, path.stem, {}, "", {}, f"{error.what}: {error.got}"))
    except (KeyError, TypeError, AttributeError) as error:
        return (yield _Rollout(path, path.stem, {}, "", {}, f"the pickle is no rollout of documents 001 and 002: {error!r}"))
    for name, steps in sorted(found, key=lambda item: _number(item[0].removeprefix("episode_"))):
        yield _Rollout(path, f"{path.stem}/{name}", dict(steps), description, fields)


def _sample(rollout: _Rollout, key: str, step: Mapping[str, Any]) -> Sample:
    """One kept step. Raises ValueError, TypeError, AttributeError or KeyError for another layout."""
    if not (match := re.fullmatch(r"step_(\d+)", key)):
        raise ValueError(f"{key!r} is no step_NUMBER")
    number = int(match[1])
    if step.get("timestep", number) != number:
        raise ValueError(f"{key} says timestep {step['timestep']}")
    observation = step.get("observation") or {}
    pictures = {camera: observation[name] for camera, name in CAMERAS.items() if name in observation}
    for camera, picture in pictures.items():
        if len(picture.shape) != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"camera {camera} is {picture.dtype} {picture.shape}, not uint8 (height, width, 3)")
    latents = {name: value for key, entry in step.items() if key not in OWN for name, value in _leaves({key: entry}) if value is not None}
    return Sample(
        f"{rollout.name}/{number:04d}",
        rollout.description,
        Pictures({camera: picture if isinstance(picture, Latent) else _Stored(picture) for camera, picture in pictures.items()}),
        state=_vector(observation.get("robot_state")),
        action=_vector(step.get("action")),
        group=rollout.name,
        episode=rollout.name,
        step=number,
        fields={**rollout.fields, "latents": latents},
    )


def _leaves(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Everything that is no dictionary, by its keys in dot notation."""
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield from _leaves(entry, f"{above}{key}.")
        else:
            yield f"{above}{key}", entry


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__


def _vector(value: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value, dtype=np.float32)


def _number(text: str) -> int:
    """The number that a name begins with, for an order in which 10 follows 9; names without one come last."""
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 10**9
