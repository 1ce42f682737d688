"""The metadata of a LeRobot dataset, version 2 and 3 alike: features, tasks, and where the rows and videos of every episode lie."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from harness.errors import DamagedError, MissingError

__all__ = ["Meta", "Place", "Video", "inside", "parquet", "read_meta"]

V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


class Video(NamedTuple):
    """The file of one camera of an episode, and the second at which the episode begins in it."""

    path: Path
    start: float


class Place(NamedTuple):
    """Where an episode of `length` frames lies; version 3 keeps many episodes in one `data` file."""

    index: int
    length: int
    data: Path
    videos: Mapping[str, Video]


@dataclass(frozen=True)
class Meta:
    """`features` as info.json lists them, `tasks` by task_index, `places` in order of episodes."""

    root: Path
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[int, str]
    places: tuple[Place, ...]


def read_meta(root: Path) -> Meta:
    """The metadata below `root`. Raises MissingError without meta/info.json, DamagedError for what cannot be read or contradicts itself."""
    path = root / "meta/info.json"
    if not path.is_file():
        raise MissingError("there is no LeRobot dataset here", where=root, expected="a folder with meta/info.json")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version, features, fps = str(info["codebase_version"]), dict(info["features"]), float(info["fps"])
        videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
        total = int(info.get("total_episodes", -1))
        if fps <= 0:
            raise ValueError(f"{fps} frames per second")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError("meta/info.json is not readable", where=path, got=repr(error), expected="codebase_version, features, fps") from error
    reader = {"v2": _version_2, "v3": _version_3}.get(version.partition(".")[0])
    if reader is None:
        raise DamagedError("a LeRobot dataset of a version that is not known", where=path, got=version, expected="v2.0, v2.1 or v3.0")
    try:
        tasks, places = reader(root, info, videos)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:  # pyarrow's errors are ValueErrors, KeyErrors or OSErrors
        got, expected = f"{type(error).__name__}: {error}", f"the layout of {version}"
        raise DamagedError("the episodes of a LeRobot dataset are not listed readably", where=root / "meta", got=got, expected=expected) from error
    if total not in (-1, len(places)):
        got, expected = len(places), f"{total} of info.json"
        raise DamagedError("a LeRobot dataset lists another number of episodes than it says", where=root / "meta", got=got, expected=expected)
    return Meta(root, fps, features, tasks, tuple(sorted(places, key=lambda place: place.index)))


def inside(root: Path, relative: str) -> Path:
    """The path below `root`. Raises ValueError for one that leads out of it."""
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{relative} leads out of the dataset")
    return root / pure


def parquet(where: Path) -> Any:
    """pyarrow's parquet module. Raises MissingError."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingError("LeRobot datasets need the pyarrow package", where=where, next="pip install 'vla-harness[lerobot]' -c constraints.txt") from error
    return pyarrow.parquet


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _version_2(root: Path, info: Mapping[str, Any], videos: list[str]) -> tuple[dict[int, str], list[Place]]:
    tasks = {int(line["task_index"]): str(line["task"]) for line in _lines(root / "meta/tasks.jsonl")}
    places = []
    for line in _lines(root / "meta/episodes.jsonl"):
        index = int(line["episode_index"])
        names = {"episode_chunk": index // int(info.get("chunks_size", 1000)), "episode_index": index}
        data = inside(root, (info.get("data_path") or V2_DATA).format(**names))
        films = {key: Video(inside(root, (info.get("video_path") or V2_VIDEO).format(video_key=key, **names)), 0.0) for key in videos}
        places.append(Place(index, int(line["length"]), data, films))
    return tasks, places


def _version_3(root: Path, info: Mapping[str, Any], videos: list[str]) -> tuple[dict[int, str], list[Place]]:
    table = parquet(root).read_table(root / "meta/tasks.parquet").to_pydict()
    texts = next(values for name, values in table.items() if name != "task_index")  # the index of a data frame, which early versions left unnamed
    tasks = dict(zip(map(int, table["task_index"]), map(str, texts), strict=True))
    wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    wanted += [f"videos/{key}/{part}" for key in videos for part in ("chunk_index", "file_index", "from_timestamp")]
    places = []
    for file in sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet")):
        rows = parquet(root).read_table(file, columns=wanted)  # leaves out dozens of columns of statistics
        for row in rows.to_pylist():
            names = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
            data = inside(root, (info.get("data_path") or V3_DATA).format(**names))
            films = {key: _film(root, info, key, row) for key in videos}
            places.append(Place(int(row["episode_index"]), int(row["length"]), data, films))
    return tasks, places


def _film(root: Path, info: Mapping[str, Any], key: str, row: Mapping[str, Any]) -> Video:
    names = {"chunk_index": row[f"videos/{key}/chunk_index"], "file_index": row[f"videos/{key}/file_index"]}
    path = inside(root, (info.get("video_path") or V3_VIDEO).format(video_key=key, **names))
    return Video(path, float(row[f"videos/{key}/from_timestamp"]))
