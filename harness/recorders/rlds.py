"""Episodes as an RLDS dataset in openvla's LIBERO layout, which TFDS opens by its folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, final

from harness.errors import MissingError, UsageError
from harness.recorders._base import Recorder, cannot_write, whole
from harness.recorders._rlds_files import Shards, Written
from harness.recorders._rlds_schema import Schema, record
from harness.types import Episode

__all__ = ["RLDSRecorder"]

VERSION = "1.0.0"


@final
class RLDSRecorder(Recorder):
    """Writes `folder/name/1.0.0`. The first episode with steps sets cameras, shapes and fields, and the others must agree with it.

    Camera `primary` is `observation.image`, every other `observation.{camera}_image`. Numbers in a sample's fields go to
    `observation`, an episode's fields to `episode_metadata`; floats are kept as float32, the only kind that a record has.
    Where a sample does not say, the reward is 1 at the end of a success, and the last step of anything but a failure is terminal.
    """

    def __init__(
        self,
        *,
        file_format: Literal["tfrecord", "array_record"] = "tfrecord",
        name: str = "libero",
        split: str = "train",
        image_format: Literal["jpeg", "png"] = "jpeg",
        quality: int = 95,
        shard_bytes: int = 1 << 27,
    ) -> None:
        for label, value, known in (("file format", file_format, ("tfrecord", "array_record")), ("image format", image_format, ("jpeg", "png"))):
            if value not in known:
                raise UsageError(f"RLDS is not recorded in this {label}", got=value, expected=" or ".join(known))
        for label, value in (("dataset", name), ("split", split)):
            if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
                raise UsageError(f"TFDS does not take this name of a {label}", got=value, expected="lower-case letters, digits and _")
        self.file_format, self.name, self.split = file_format, name, split
        self.image_format, self.quality, self.shard_bytes = image_format, quality, shard_bytes

    def write(self, episodes: Iterable[Episode], folder: Path) -> Path:
        target = Path(folder) / self.name / VERSION
        _installed(target)
        with whole(target) as unfinished:
            with Shards(unfinished, f"{self.name}-{self.split}", self.file_format, self.shard_bytes) as shards:
                schema = self._records(episodes, shards)
                written = shards.finish()
            self._describe(unfinished, schema, written)
        return target

    def _records(self, episodes: Iterable[Episode], shards: Shards) -> Schema:
        """Writes every episode; the schema of all. Raises UsageError when an episode differs from the first."""
        schema, waiting = None, []
        for episode in episodes:
            values = record(episode, self.image_format, self.quality)
            waiting.append((values, episode.id))
            if schema is None:
                if not values["steps"]:
                    continue  # an episode without steps says nothing of their shapes
                schema = Schema(values, self.image_format)
            for one, where in waiting:
                shards.write(schema.serialize(one, where))
            waiting = []
        if schema is None:
            got = f"{len(waiting)} episodes without a step" if waiting else "no episode"
            raise UsageError("there is nothing to record", got=got, expected="at least one episode with steps")
        return schema

    def _describe(self, folder: Path, schema: Schema, written: Written) -> None:
        """Writes dataset_info.json and features.json."""
        import tensorflow_datasets as tfds

        template = tfds.core.ShardedFileTemplate(folder, dataset_name=self.name, split=self.split, filetype_suffix=self.file_format)
        split = tfds.core.SplitInfo(name=self.split, shard_lengths=written.lengths, num_bytes=written.size, filename_template=template)
        log = logging.getLogger("absl")
        level = log.level
        log.setLevel(logging.ERROR)  # TFDS tells of fields that it fills later
        try:
            tfds.folder_dataset.write_metadata(data_dir=folder, features=schema.features, split_infos=[split], version=VERSION, check_data=False)
        except OSError as error:
            raise cannot_write(folder, error) from error
        finally:
            log.setLevel(level)


def _installed(where: Path) -> None:
    """Raises MissingError without TFDS, before anything is written."""
    try:
        import tensorflow_datasets  # noqa: F401
    except ImportError as error:
        raise MissingError(f"recording RLDS needs the {error.name} package", where=where, next="pip install 'vla-harness[rlds]' -c constraints.txt") from error
