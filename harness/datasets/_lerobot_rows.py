"""The rows of a range of LeRobot episodes, streamed: a file that holds many episodes is passed through once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from harness.datasets._lerobot_meta import Place, parquet

__all__ = ["Row", "Unread", "read_rows"]

BATCH = 64  # rows held at a time: with pictures in the table some megabytes
NEEDED = ("episode_index", "frame_index", "timestamp")


class Row(NamedTuple):
    """One frame's values by column."""

    place: Place
    values: dict[str, Any]


class Unread(NamedTuple):
    """An episode whose rows are not what its place says, after those that could be read."""

    place: Place
    reason: str


def read_rows(places: Sequence[Place], columns: Sequence[str]) -> Iterator[Row | Unread]:
    """Every row of the episodes in order, of the named columns and those that place it."""
    for data, run in groupby(places, key=lambda place: place.data):
        yield from _read_file(data, deque(run), sorted({*columns, *NEEDED}))


def _read_file(path: Path, waiting: deque[Place], columns: list[str]) -> Iterator[Row | Unread]:
    wanted = {place.index for place in waiting}
    seen: Counter[int] = Counter()
    try:
        for values in _values(path, wanted, columns):
            index = values["episode_index"]
            while waiting[0].index != index:
                if not any(place.index == index for place in waiting):
                    raise ValueError(f"rows of episode {index} lie behind those of a later one")
                yield from _ended(waiting.popleft(), seen)
            seen[index] += 1
            yield Row(waiting[0], values)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are these
        for place in waiting:
            yield Unread(place, f"{path.name} is not readable: {error}")
        return
    for place in waiting:
        yield from _ended(place, seen)


def _ended(place: Place, seen: Counter[int]) -> Iterator[Unread]:
    if not seen[place.index]:
        yield Unread(place, f"the episode has no frames in {place.data.name}, its length is given as {place.length}")
    elif seen[place.index] != place.length:
        yield Unread(place, f"the episode has {seen[place.index]} frames in {place.data.name}, its length is given as {place.length}")


def _values(path: Path, wanted: set[int], columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of the wanted episodes in the file's order. Raises OSError, ValueError, KeyError."""
    with parquet(path).ParquetFile(path) as file:
        if lost := [name for name in NEEDED if name not in file.schema_arrow.names]:
            raise KeyError(f"no column {lost[0]} among {', '.join(file.schema_arrow.names)}")
        groups = [number for number in range(file.num_row_groups) if _holds(file.metadata.row_group(number), wanted)]
        for batch in file.iter_batches(BATCH, row_groups=groups, columns=columns, use_threads=False):
            held = [number for number, index in enumerate(batch.column("episode_index").to_pylist()) if index in wanted]
            if held:
                yield from batch.take(held).to_pylist()


def _holds(group: Any, wanted: set[int]) -> bool:
    """Whether a row group may hold a wanted episode, by its statistics where it has some."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == "episode_index" and column.statistics is not None and column.statistics.has_min_max:
            return any(column.statistics.min <= index <= column.statistics.max for index in wanted)
    return True
