"""A stream as runs of records of one episode, and what a sample says of itself that samples can be counted and chosen by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from harness.readers import Stream
from harness.types import Broken, Sample

__all__ = ["Run", "labels", "runs"]


class Run(NamedTuple):
    """Consecutive records of one episode, and the shards that hold them; a sample without an episode is a run of its own."""

    shards: tuple[int, ...]
    records: tuple[Sample | Broken, ...]

    @property
    def samples(self) -> list[Sample]:
        return [record for record in self.records if isinstance(record, Sample)]

    @property
    def episode(self) -> str:
        """The episode's id, or that of the one record."""
        return self.records[0].episode or self.records[0].id


def runs(stream: Stream) -> Iterator[Run]:
    """Every record of the stream in order. An episode may go on in the next shard where a format's shards are ranges of rows."""
    shards: list[int] = []
    records: list[Sample | Broken] = []
    for number in range(stream.shards):
        for record in stream.shard(number):
            if records and not _continues(record, records[0].episode):
                yield Run(tuple(dict.fromkeys(shards)), tuple(records))
                shards, records = [], []
            shards.append(number)
            records.append(record)
    if records:
        yield Run(tuple(dict.fromkeys(shards)), tuple(records))


def _continues(record: Sample | Broken, episode: str) -> bool:
    """A broken record that could not tell its episode does not cut the one it lies in."""
    return bool(episode) and (record.episode == episode or isinstance(record, Broken) and not record.episode)


def labels(sample: Sample) -> dict[str, str]:
    """Names to strata by: `task`, `instruction`, `group`, the parts of a scenario, and every field that is a text, a flag or an integer.

    The task is boxes, orientation and side where a scenario tells them (document 003's task type), else the instruction, else the group.
    """
    scenario = sample.fields.get("scenario")
    parts = scenario if isinstance(scenario, Mapping) else {}
    told = {"boxes", "orientation", "side"} <= parts.keys()
    task = "{boxes}box_{orientation}_{side}".format_map(parts) if told else sample.instruction.strip() or sample.group
    own = {"task": task, "instruction": sample.instruction.strip(), "group": sample.group}
    return {**{name: text for name, value in {**sample.fields, **parts}.items() if (text := _text(value)) is not None}, **own}


def _text(value: Any) -> str | None:
    """A label's text; None for what is no label."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | np.integer) else None
