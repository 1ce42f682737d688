"""LeRobot datasets, tiny ones written as upstream's two layouts say: every frame is found by its colour."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import readers
from harness.datasets import _lerobot_video
from harness.datasets._lerobot_rows import read_rows
from harness.datasets._lerobot_video import Decoder, VideoFrame
from harness.datasets.lerobot import LeRobot
from harness.errors import DamagedError, MissingError, UnknownNameError
from harness.types import Broken, Sample

pa = pytest.importorskip("pyarrow", reason="pip install 'vla-harness[lerobot]' -c constraints.txt")
av = pytest.importorskip("av", reason="pip install 'vla-harness[lerobot]' -c constraints.txt")
import pyarrow.parquet as pq  # noqa: E402

FPS, LENGTHS, TASKS = 10, (5, 3, 4), ("push the cube", "öffne die Tür")
VIDEO, STILL = "observation.images.top", "observation.images.wrist_cam"


def colour(episode: int, frame: int) -> tuple[int, int, int]:
    """No two frames of a dataset have the same; far enough apart to survive a lossy codec."""
    return (60 * episode + 40, 30 * frame + 20, 120)


def near(picture: np.ndarray, episode: int, frame: int) -> bool:
    return picture.dtype == np.uint8 and bool(np.abs(picture.reshape(-1, 3).mean(axis=0) - colour(episode, frame)).max() < 8)


def film(path: Path, colours: Sequence[tuple[int, int, int]], *, gop: int = 4, codec: str = "mpeg4", fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size, stream.bit_rate = 32, 32, "yuv420p", gop, 4_000_000
        for value in colours:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")))
        container.mux(stream.encode())


def numbered(frame: int) -> tuple[int, int, int]:
    """A colour for each of 40 frames, coarse enough for a codec that skips small changes."""
    return (30 * (frame % 8) + 15, 128, 40 * (frame // 8) + 20)


def number(picture: np.ndarray) -> int:
    red, _, blue = picture.reshape(-1, 3).mean(axis=0)
    return round((red - 15) / 30) + 8 * round((blue - 20) / 40)


def png(episode: int, frame: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 4, 3), colour(episode, frame), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def rows(episode: int, length: int, start: int, **changed: Callable[[int], Any]) -> list[dict[str, Any]]:
    values: dict[str, Callable[[int], Any]] = {
        "observation.state": lambda frame: [float(episode), float(frame)],
        "action": lambda frame: [float(frame), -1.0, 0.5],
        STILL: lambda frame: {"bytes": png(episode, frame), "path": f"frame-{frame:06d}.png"},
        "timestamp": lambda frame: frame / FPS,
        "frame_index": lambda frame: frame,
        "episode_index": lambda frame: episode,
        "index": lambda frame: start + frame,
        "task_index": lambda frame: episode % 2,
        "next.success": lambda frame: frame == length - 1,
        "unused": lambda frame: "x" * 50,
        **changed,
    }
    return [{name: value(frame) for name, value in values.items()} for frame in range(length)]


def table(records: list[dict[str, Any]]) -> Any:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {"observation.state": pa.list_(pa.float32(), 2), "action": pa.list_(pa.float32(), 3), STILL: picture, "timestamp": pa.float32()}
    first = records[0] if records else rows(0, 1, 0)[0]
    schema = pa.schema([(name, kinds.get(name) or pa.array([value]).type) for name, value in first.items()])
    return pa.Table.from_pylist(records, schema=schema)


def info(root: Path, version: str, **changed: Any) -> None:
    def feature(dtype: str, *shape: int) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": None}

    features = {
        "observation.state": feature("float32", 2),
        "action": feature("float32", 3),
        VIDEO: feature("video", 32, 32, 3),
        STILL: feature("image", 6, 4, 3),
        **{name: feature("int64", 1) for name in ("frame_index", "episode_index", "index", "task_index")},
        "timestamp": feature("float32", 1),
        "next.success": feature("bool", 1),
    }
    entries = {"codebase_version": version, "fps": FPS, "total_episodes": len(LENGTHS), "chunks_size": 2, "features": features, **changed}
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(entries), encoding="utf-8")


def version_2(root: Path, **changed: Callable[[int], Any]) -> Path:
    """Three episodes in two chunks, one file each."""
    templates = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    info(root, "v2.1", **templates)
    with (root / "meta/tasks.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"task_index": index, "task": task}) + "\n" for index, task in enumerate(TASKS))
    with (root / "meta/episodes.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"episode_index": index, "tasks": [TASKS[index % 2]], "length": length}) + "\n" for index, length in enumerate(LENGTHS))
    for episode, length in enumerate(LENGTHS):
        data = root / f"data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(rows(episode, length, sum(LENGTHS[:episode]), **changed)), data)
        film(root / f"videos/chunk-{episode // 2:03d}/{VIDEO}/episode_{episode:06d}.mp4", [colour(episode, frame) for frame in range(length)])
    return root


def version_3(root: Path, **changed: Callable[[int], Any]) -> Path:
    """The same three episodes: two in the first files, one in the second."""
    file_name = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    info(root, "v3.0", data_path=f"data/{file_name}.parquet", video_path=f"videos/{{video_key}}/{file_name}.mp4")
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": list(TASKS)}), root / "meta/tasks.parquet")
    starts = (0.0, LENGTHS[0] / FPS, 0.0)
    index = {
        "episode_index": [0, 1, 2],
        "tasks": [[TASKS[0]], [TASKS[1]], [TASKS[0]]],
        "length": list(LENGTHS),
        **{f"{kind}/{part}_index": values for kind in ("data", f"videos/{VIDEO}") for part, values in (("chunk", [0, 0, 0]), ("file", [0, 0, 1]))},
        f"videos/{VIDEO}/from_timestamp": list(starts),
        f"videos/{VIDEO}/to_timestamp": [start + length / FPS for start, length in zip(starts, LENGTHS, strict=True)],
        "stats/action/mean": [[0.0]] * 3,
    }
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(index), root / "meta/episodes/chunk-000/file-000.parquet")
    for number, episodes in enumerate(((0, 1), (2,))):
        records = [row for episode in episodes for row in rows(episode, LENGTHS[episode], sum(LENGTHS[:episode]), **changed)]
        data = root / f"data/chunk-000/file-{number:03d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(records), data, row_group_size=3)
        film(root / f"videos/{VIDEO}/chunk-000/file-{number:03d}.mp4", [colour(episode, frame) for episode in episodes for frame in range(LENGTHS[episode])])
    return root


VERSIONS = pytest.mark.parametrize("written", [version_2, version_3], ids=["v2.1", "v3.0"])


@VERSIONS
def test_every_frame_is_read_with_its_own_pictures(tmp_path: Path, written: Callable[[Path], Path]) -> None:
    reader = LeRobot(written(tmp_path))
    samples = list(reader)
    assert len(reader) == 3
    assert [sample.id for sample in samples] == [f"{episode:06d}/{frame:06d}" for episode, length in enumerate(LENGTHS) for frame in range(length)]
    for sample in samples:
        assert isinstance(sample, Sample)
        episode, frame = map(int, sample.id.split("/"))
        assert near(sample.images["primary"], episode, frame) and sample.images["primary"].shape == (32, 32, 3)
        assert near(sample.images["wrist"], episode, frame) and sample.images["wrist"].shape == (6, 4, 3)
        assert sample.state.tolist() == [episode, frame] and sample.action.tolist() == [frame, -1, 0.5] and sample.action.dtype == np.float32
        assert (sample.instruction, sample.step, sample.episode, sample.group) == (TASKS[episode % 2], frame, f"{episode:06d}", f"{episode:06d}")
        assert sample.fields == {"timestamp": pytest.approx(frame / FPS), "next.success": frame == LENGTHS[episode] - 1}


def test_colours_of_neighbours_are_told_apart() -> None:
    picture = np.full((2, 2, 3), colour(1, 2), np.uint8)
    assert near(picture, 1, 2) and not near(picture, 1, 3) and not near(picture, 2, 2)


@VERSIONS
def test_a_range_gives_what_the_whole_gives_also_after_pickling(tmp_path: Path, written: Callable[[Path], Path]) -> None:
    reader = pickle.loads(pickle.dumps(LeRobot(written(tmp_path))))
    whole = [sample.id for sample in reader]
    assert [sample.id for start in range(3) for sample in reader.read(start, start + 1)] == whole
    assert [sample.id for sample in reader.read(1, 3)] == whole[LENGTHS[0] :]
    last = pickle.loads(pickle.dumps(list(reader.read(1, 2))))[-1]
    assert near(last.images["primary"], 1, 2) and near(last.images["wrist"], 1, 2)


def test_pictures_are_found_in_any_order_and_from_many_threads(tmp_path: Path) -> None:
    samples = list(LeRobot(version_3(tmp_path)))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(samples)), 3))
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda number: samples[number].images["primary"], order))
    assert all(near(picture, *map(int, samples[number].id.split("/"))) for picture, number in zip(pictures, order, strict=True))


@pytest.mark.parametrize("gop", [1, 12, 100])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_frames_of_any_codec_and_keyframe_distance_are_found(tmp_path: Path, codec: str, gop: int) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    film(tmp_path / "a.mp4", [numbered(frame) for frame in range(40)], gop=gop, codec=codec)
    for frame in [*range(40), 39, 0, 20, 5, 38, 1]:
        assert number(VideoFrame(tmp_path / "a.mp4", frame / FPS, 0.5 / FPS)()) == frame


def test_reading_in_order_decodes_each_frame_once_and_opens_the_file_once(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [(120, 120, 120)] * 60, gop=30)
    decoder = Decoder(tmp_path / "a.mp4")
    for frame in range(60):
        decoder.frame(frame / FPS, 0.5 / FPS)
    assert decoder.decoded <= 61
    for frame in range(0, 60, 6):  # backwards once, then forwards in strides
        decoder.frame(frame / FPS, 0.5 / FPS)
    assert decoder.decoded <= 122
    kept = {_lerobot_video._decoder(tmp_path / "a.mp4") for _ in range(5)}
    assert len(kept) == 1


def test_few_decoders_stay_open(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [(120, 120, 120)] * 3)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3 * _lerobot_video.OPEN):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes((tmp_path / "a.mp4").read_bytes())
        VideoFrame(path, 0.1, 0.05)()
    assert len(os.listdir("/proc/self/fd")) <= before + _lerobot_video.OPEN


def test_a_forked_child_decodes_with_decoders_of_its_own(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [numbered(frame) for frame in range(40)], gop=5)
    frames = [VideoFrame(tmp_path / "a.mp4", frame / FPS, 0.5 / FPS) for frame in range(40)]
    frames[3]()
    if not (child := os.fork()):
        os._exit(0 if not _lerobot_video._KEPT and all(number(frames[n]()) == n for n in range(39, 0, -3)) else 1)
    assert all(number(frames[n]()) == n for n in range(4, 40))
    assert os.waitpid(child, 0)[1] == 0


def test_a_video_shorter_than_its_episode_says_which_time_it_lacks(tmp_path: Path) -> None:
    version_2(tmp_path)
    film(tmp_path / f"videos/chunk-000/{VIDEO}/episode_000000.mp4", [colour(0, frame) for frame in range(3)])
    samples = list(LeRobot(tmp_path))
    assert near(samples[2].images["primary"], 0, 2)
    for number in (3, 4):
        said = rf"no frame at this time(.|\n)*episode_000000\.mp4(.|\n)*nearest at 0\.2000 s(.|\n)*one at 0\.{number}000 s, within 0\.0500 s"
        with pytest.raises(DamagedError, match=said):
            samples[number].images["primary"]
    assert near(samples[1].images["primary"], 0, 1)


@pytest.mark.parametrize("content", [b"", b"not a film" * 50, None], ids=["empty", "text", "cut short"])
def test_a_damaged_video_is_named_when_it_is_looked_at(tmp_path: Path, content: bytes | None) -> None:
    path = version_2(tmp_path) / f"videos/chunk-000/{VIDEO}/episode_000001.mp4"
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    samples = list(LeRobot(tmp_path))
    assert near(samples[0].images["primary"], 0, 0)
    with pytest.raises(DamagedError, match=r"a video cannot be decoded(.|\n)*episode_000001\.mp4"):
        samples[LENGTHS[0]].images["primary"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(path: Path, records: list[dict[str, Any]]) -> None:
    pq.write_table(table(records), path)


BROKEN_2 = {  # damage to episode 1 of version 2, and the reason given
    "parquet cut short": (lambda root: cut(root / "data/chunk-000/episode_000001.parquet"), "episode_000001.parquet is not readable"),
    "no parquet": (lambda root: (root / "data/chunk-000/episode_000001.parquet").unlink(), "not readable"),
    "no video": (lambda root: (root / f"videos/chunk-000/{VIDEO}/episode_000001.mp4").unlink(), f"no video videos/chunk-000/{VIDEO}/episode_000001.mp4"),
    "no rows": (lambda root: rewritten(root / "data/chunk-000/episode_000001.parquet", []), "no frames in episode_000001.parquet, its length is given as 3"),
    "other rows": (lambda root: rewritten(root / "data/chunk-000/episode_000001.parquet", rows(7, 3, 0)), "no frames"),
    "no columns": (lambda root: pq.write_table(pa.table({"x": [1]}), root / "data/chunk-000/episode_000001.parquet"), "no column episode_index among x"),
}


@pytest.mark.parametrize("name", BROKEN_2)
def test_a_damaged_episode_is_named_and_reading_goes_on(tmp_path: Path, name: str) -> None:
    damage, reason = BROKEN_2[name]
    damage(version_2(tmp_path))
    found = list(LeRobot(tmp_path))
    assert [record.id for record in found if isinstance(record, Broken)] == ["000001"]
    assert sum(isinstance(record, Sample) for record in found) == LENGTHS[0] + LENGTHS[2]
    broken = next(record for record in found if isinstance(record, Broken))
    assert re.search(reason, broken.reason) and found.index(broken) == LENGTHS[0]


def test_a_damaged_file_of_many_episodes_names_each_of_them(tmp_path: Path) -> None:
    cut(version_3(tmp_path) / "data/chunk-000/file-000.parquet")
    found = list(LeRobot(tmp_path))
    assert [record.id for record in found if isinstance(record, Broken)] == ["000000", "000001"]
    assert [record.episode for record in found if isinstance(record, Sample)] == ["000002"] * LENGTHS[2]


@pytest.mark.parametrize(("length", "reason"), [(4, "has 3 frames in .*given as 4"), (2, "has 3 frames in .*given as 2"), (0, "no frames")])
def test_a_length_that_disagrees_is_named_behind_the_frames(tmp_path: Path, length: int, reason: str) -> None:
    path = version_3(tmp_path) / "meta/episodes/chunk-000/file-000.parquet"
    index = pq.read_table(path).to_pydict()
    index["length"][1] = length
    pq.write_table(pa.table(index), path)
    broken = [record for record in LeRobot(tmp_path) if isinstance(record, Broken)]
    assert [record.id for record in broken] == ["000001"] and re.search(reason, broken[0].reason)


def test_rows_in_another_order_than_the_episodes_are_refused(tmp_path: Path) -> None:
    rewritten(version_3(tmp_path) / "data/chunk-000/file-000.parquet", [*rows(0, 2, 0), *rows(1, 3, 5), *rows(0, 3, 2)])
    found = list(LeRobot(tmp_path))
    assert any(isinstance(record, Broken) and "episode 0 lie behind" in record.reason for record in found)
    assert [record.id for record in found][-4:] == [f"000002/{frame:06d}" for frame in range(4)]


def test_pictures_beside_the_table_and_pictures_that_are_nowhere(tmp_path: Path) -> None:
    path = "images/cam/frame-000000.png"
    version_2(tmp_path, **{STILL: lambda frame: {"bytes": None, "path": path if frame != 1 else "../../secret.png" if frame == 2 else "images/none.png"}})
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(png(0, 0))
    found = list(LeRobot(tmp_path).read(0, 1))
    assert near(found[0].images["wrist"], 0, 0) and near(found[4].images["wrist"], 0, 0)
    assert [record.id for record in found if isinstance(record, Broken)] == ["000000/000001"]


@pytest.mark.parametrize(("path", "reason"), [("../secret.png", "leads out of the dataset"), ("/etc/secret.png", "leads out"), (None, "holds no picture")])
def test_a_picture_outside_of_the_dataset_is_not_opened(tmp_path: Path, path: str | None, reason: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(0, 0))
    found = list(LeRobot(version_2(tmp_path / "data", **{STILL: lambda frame: {"bytes": b"", "path": path}})))
    assert len(found) == sum(LENGTHS) and all(isinstance(record, Broken) and reason in record.reason for record in found)


def test_a_corrupt_picture_says_so_when_it_is_looked_at(tmp_path: Path) -> None:
    sample = next(iter(LeRobot(version_2(tmp_path, **{STILL: lambda frame: {"bytes": png(0, 0)[:40], "path": None}}))))
    with pytest.raises(DamagedError, match=rf"a picture cannot be decoded(.|\n)*{re.escape(STILL)} of 000000/000000"):
        sample.images["wrist"]


def test_a_row_without_a_known_task_has_no_instruction(tmp_path: Path) -> None:
    assert [sample.instruction for sample in LeRobot(version_2(tmp_path, task_index=lambda frame: 9)).read(0, 1)] == [""] * LENGTHS[0]


def test_only_the_columns_that_are_wanted_are_read(tmp_path: Path) -> None:
    reader = LeRobot(version_2(tmp_path), image_keys={"primary": VIDEO})
    first = next(iter(read_rows(reader.meta.places, reader._columns)))
    assert set(first.values) == {"observation.state", "action", "timestamp", "frame_index", "episode_index", "task_index", "next.success"}


def test_a_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = LeRobot(version_2(tmp_path))
    sample = next(iter(reader))
    for package, use in (("av", lambda: sample.images["primary"]), ("pyarrow.parquet", lambda: list(reader))):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingError, match=rf"need the {package.partition('.')[0]} package(.|\n)*vla-harness\[lerobot\]"):
            use()


def test_cameras_are_named_by_hand_or_by_their_features(tmp_path: Path) -> None:
    assert LeRobot(version_2(tmp_path)).cameras == {"primary": VIDEO, "wrist": STILL}
    only = LeRobot(tmp_path, image_keys={"primary": STILL})
    assert list(next(iter(only)).images) == ["primary"] and near(next(iter(only)).images["primary"], 0, 0)
    for directory in (tmp_path / "videos").rglob("*.mp4"):
        directory.unlink()  # a camera that is not asked for need not be there
    assert sum(isinstance(record, Sample) for record in only) == sum(LENGTHS)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["observation.image"], ["primary"]),
        (["a.cam_high", "a.cam_left_wrist", "a.cam_right_wrist", "a.low"], ["primary", "wrist", "cam_right_wrist", "low"]),
        (["a.eye_in_hand", "a.front"], ["wrist", "primary"]),
        (["a.wrist"], ["wrist"]),
        (["a.top", "b.front", "c.front"], ["primary", "front", "c.front"]),
    ],
)
def test_camera_names_follow_the_features(keys: list[str], named: list[str]) -> None:
    from harness.datasets.lerobot import _cameras

    assert _cameras({key: {} for key in keys}) == dict(zip(named, keys, strict=True))


@pytest.mark.parametrize("option", [{"image_keys": {"primary": "observation.images.topp"}}, {"state_key": "state"}, {"action_key": "actoin"}], ids=str)
def test_a_wrong_key_answers_with_the_features_that_exist(tmp_path: Path, option: dict[str, Any]) -> None:
    info(tmp_path, "v2.1", total_episodes=0)
    for name in ("tasks", "episodes"):
        (tmp_path / f"meta/{name}.jsonl").touch()
    with pytest.raises(UnknownNameError, match=r"no feature(.|\n)*observation\.images\.top"):
        LeRobot(tmp_path, **option)
    assert LeRobot(tmp_path).keys()[VIDEO] == "video (32, 32, 3)" and len(LeRobot(tmp_path)) == 0


@pytest.mark.parametrize(
    ("damage", "error", "kind"),
    [
        (lambda root: (root / "meta/info.json").unlink(), "no LeRobot dataset here", MissingError),
        (lambda root: (root / "meta/info.json").write_text('{"codebase_ver'), "info.json is not readable", DamagedError),
        (lambda root: info(root, "v1.6"), "version that is not known(.|\n)*v1.6", DamagedError),
        (lambda root: info(root, "v2.1", total_episodes=4), "another number of episodes(.|\n)*got +3(.|\n)*4 of info.json", DamagedError),
        (lambda root: (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length'), "not listed readably", DamagedError),
        (lambda root: (root / "meta/tasks.jsonl").unlink(), "not listed readably(.|\n)*tasks.jsonl", DamagedError),
        (lambda root: info(root, "v2.1", data_path="../{episode_chunk}/{episode_index}"), "leads out of the dataset", DamagedError),
        (lambda root: info(root, "v3.0"), "not listed readably(.|\n)*tasks.parquet", DamagedError),
    ],
    ids=["no info", "info cut short", "old version", "count", "episodes cut short", "no tasks", "path outside", "other version"],
)
def test_damaged_metadata_is_refused(tmp_path: Path, damage: Callable[[Path], None], error: str, kind: type[Exception]) -> None:
    damage(version_2(tmp_path))
    with pytest.raises(kind, match=error):
        LeRobot(tmp_path)


@VERSIONS
def test_identity_follows_the_files_that_are_read(tmp_path: Path, written: Callable[[Path], Path]) -> None:
    written(tmp_path)
    before = LeRobot(tmp_path).identity()
    assert LeRobot(tmp_path).identity() == before
    for path in (next((tmp_path / "data").rglob("*.parquet")), next((tmp_path / "videos").rglob("*.mp4"))):
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert LeRobot(tmp_path).identity() != before
        path.write_bytes(content)


def test_the_format_is_recognised_by_its_files(tmp_path: Path) -> None:
    assert not LeRobot.recognises(tmp_path) and not LeRobot.recognises("lerobot/pusht")
    assert isinstance(readers.stream(str(version_2(tmp_path))).reader, LeRobot)
