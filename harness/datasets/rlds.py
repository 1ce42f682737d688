"""RLDS datasets through TFDS: episodes of robots, as Open X-Embodiment and openvla's LIBERO come."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from harness.datasets import _rlds_features as kinds
from harness.datasets import _rlds_location as location
from harness.datasets._base import Reader
from harness.datasets._identity import files_identity
from harness.datasets._keys import flat, lookup, text
from harness.datasets._rlds_records import Record, file_format, records, shards
from harness.datasets._rlds_splits import ranges
from harness.pictures import Encoded, Pictures
from harness.trees import plain
from harness.types import Broken, Sample

__all__ = ["RLDS"]

KEPT = ("is_first", "is_last", "reward")  # of a step, in Sample.fields where the dataset has them


class Shown(NamedTuple):
    """A picture that the record holds without encoding."""

    picture: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.picture


@final
class RLDS(Reader):
    """Episodes of a TFDS dataset in the order of its files; ids count from the start of the split, whatever the slice.

    `path` is a dataset's folder (or one with a single dataset below), a gs:// path, or a registered name, looked for in `data_dir`.
    `image_key` is one camera's, `primary`, or {camera: key}. Keys are those of a step in dot notation, or begin with
    `episode_metadata.`. array_record files are read without TensorFlow, tfrecord through it; pictures stay encoded until looked at.
    An action or a state that is a dictionary becomes one row in the order of its keys; `fields["action"]` keeps it as it was.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        split: str = "train",
        image_key: str | Mapping[str, str] = "observation.image",
        instruction_key: str = "episode_metadata.natural_language_instruction",
        state_key: str | None = None,
        action_key: str | None = "action",
        data_dir: str | None = None,
    ) -> None:
        self._options = dict(split=split, image_key=image_key, instruction_key=instruction_key, state_key=state_key, action_key=action_key, data_dir=data_dir)
        self.path, self.cameras = path, {"primary": image_key} if isinstance(image_key, str) else dict(image_key)
        self.instruction_key, self.state_key, self.action_key = instruction_key, state_key, action_key
        self._builder = location.opened(path, data_dir)
        self._ranges = ranges(split, self._builder.info.splits, path)
        self._format = file_format(self._builder, self._ranges)
        features = self._builder.info.features
        self._steps, self._episode = kinds.step_leaves(features, path), kinds.episode_leaves(features)
        self._check()
        self._features, self._decoders = kinds.chosen(features, self._step_keys(), self._episode_keys(), path)

    def _check(self) -> None:
        """Raises UnknownNameError for a key that the dataset does not have, before anything is read."""
        pictures = [key for key, leaf in self._steps.items() if kinds.is_picture(leaf)]
        texts = [key for key, leaf in {**self._steps, **self._episode}.items() if kinds.is_text(leaf)]
        numbers = [key for key, leaf in self._steps.items() if kinds.is_number(leaf)]
        for key in self.cameras.values():
            kinds.check("image key", key, pictures, self.path)
        kinds.check("instruction key", self.instruction_key, texts, self.path)
        for kind, key in (("state key", self.state_key), ("action key", self.action_key)):
            if key is not None and not set(kinds.under(key, self._steps) or [key]) <= set(numbers):
                kinds.check(kind, key, numbers, self.path)

    def _step_keys(self) -> set[str]:
        """The keys of a step that are read."""
        wholes = [key for key in (self.state_key, self.action_key) if key is not None]
        return {*self.cameras.values(), self.instruction_key, *KEPT, *(leaf for key in wholes for leaf in kinds.under(key, self._steps))}

    def _episode_keys(self) -> set[str]:
        """The keys of an episode that are read: all but its pictures."""
        return {key for key, leaf in self._episode.items() if not kinds.is_picture(leaf)}

    def __reduce__(self) -> tuple[object, ...]:
        """A reader crosses process borders by being opened again: TFDS's objects and files stay where they are."""
        return _reopened, (self.path, self._options)

    @classmethod
    def recognises(cls, source: Path | str) -> bool:
        return location.recognised(source)

    def __len__(self) -> int:
        return sum(part.episodes for part in self._ranges)

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        for part in self._ranges:
            for record in records(self._builder, part.within(start, stop), self._format):
                yield from self._samples(f"{part.split}/{record.number:06d}", record)
            start, stop = start - part.episodes, stop - part.episodes

    def _samples(self, name: str, record: Record) -> Iterator[Sample | Broken]:
        """The steps of one episode."""
        if record.data is None:
            yield Broken(name, record.reason, name)
            return
        from google.protobuf.message import DecodeError

        try:
            episode = self._features.deserialize_example_np(record.data, decoders=self._decoders)
        except (DecodeError, KeyError, ValueError, TypeError, AttributeError) as error:  # TFDS's ways of finding no sense in a record
            yield Broken(name, f"the record does not fit the dataset's features: {(str(error).splitlines() or [''])[0][:200]}", name)
            return
        steps, metadata = episode["steps"], plain(episode.get("episode_metadata", {}))
        if not len(steps):
            yield Broken(name, "the episode has no steps", name)
        for number in range(len(steps)):
            identifier = f"{name}/{number:04d}"
            try:
                yield self._sample(identifier, name, number, steps[number], episode, metadata)
            except (ValueError, zlib.error) as error:  # text or numbers that are none; a compressed array that is damaged
                yield Broken(identifier, str(error), name)

    def _sample(self, identifier: str, name: str, number: int, step: Mapping[str, Any], episode: Mapping[str, Any], metadata: Mapping[str, Any]) -> Sample:
        """One step. Raises ValueError with the reason when it is none."""
        instruction = text(lookup(step if self.instruction_key in self._steps else episode, self.instruction_key))
        action = None if self.action_key is None else lookup(step, self.action_key)
        state = None if self.state_key is None else lookup(step, self.state_key)
        return Sample(
            identifier,
            instruction,
            Pictures({camera: _picture(lookup(step, key), f"{identifier}, {key}") for camera, key in self.cameras.items()}),
            None if state is None else flat(state),
            None if action is None else flat(action),
            group=instruction,
            episode=name,
            step=number,
            fields={**({} if action is None else {"action": action}), "episode_metadata": metadata, **{key: plain(step[key]) for key in KEPT if key in step}},
        )

    def identity(self) -> object:
        info = self._builder.info
        if location.is_remote(self._builder.data_dir):
            splits = {part.split: info.splits[part.split] for part in self._ranges}
            return [info.name, str(info.version), {name: [list(split.shard_lengths), int(split.num_bytes)] for name, split in splits.items()}]
        folder = Path(self._builder.data_dir)
        files = [folder / name for name in location.FILES] + [Path(file) for file in shards(self._builder, self._ranges)]
        return files_identity(folder, files)

    def keys(self) -> dict[str, str]:
        return {key: kinds.described(leaf) for key, leaf in {**self._steps, **self._episode}.items()}


def _picture(value: Any, where: str) -> Encoded | Shown:
    return Encoded(value, where) if isinstance(value, bytes) else Shown(np.asarray(value))


def _reopened(path: Path | str, options: Mapping[str, Any]) -> RLDS:
    return RLDS(path, **options)
