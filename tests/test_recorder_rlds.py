"""The RLDS recorder: a dataset that TFDS opens, the same bytes every time, whole or not there. tfrecord is tested in test_rlds.py."""

from __future__ import annotations

import hashlib
import io
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import DamagedError, MissingError, UsageError
from harness.pictures import Encoded, Pictures
from harness.recorders._base import whole
from harness.recorders.rlds import RLDSRecorder
from harness.types import Episode, Sample

tfds = pytest.importorskip("tensorflow_datasets", reason="needs pip install 'vla-harness[rlds]'")

FIELDS = {"task": "cup", "suite": "libero_object", "seed": 3, "weight": 0.5, "versions": {"mujoco": "3.1"}, "objects": ["cup", "bowl"]}


def episode(name: str, steps: int = 3, *, success: bool | None = True, size: int = 32, action: int = 7, fields: dict[str, object] = FIELDS) -> Episode:
    generator = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    samples = [
        Sample(
            f"{name}/{step}",
            "pick up the cup",
            {camera: generator.integers(0, 255, (size, size, 3), dtype=np.uint8) for camera in ("primary", "wrist", "side")},
            generator.normal(size=8),
            generator.normal(size=action),
            fields={"joint_state": generator.normal(size=7), "contact": step == 1, "reward": 0.25},
        )
        for step in range(steps)
    ]
    return Episode(name, "pick up the cup", samples, success, fields)


def record(folder: Path, *episodes: Episode, **options: object) -> Path:
    return RLDSRecorder(**{"file_format": "array_record", **options}).write(episodes, folder)


def read(folder: Path) -> list[dict[str, object]]:
    """The dataset as TFDS itself reads it, pictures left encoded."""
    skip = {"steps": {"observation": {key: tfds.decode.SkipDecoding() for key in ("image", "wrist_image", "side_image")}}}
    source = tfds.builder_from_directory(folder).as_data_source(split="train", decoders=skip)
    return [{**one, "steps": list(one["steps"])} for one in source]


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tfds_reads_what_was_recorded(tmp_path: Path) -> None:
    given = [episode("one"), episode("two", 2, success=False)]
    folder = record(tmp_path, *given)
    assert folder == tmp_path / "libero/1.0.0"
    for written, found in zip(given, read(folder), strict=True):
        assert found["episode_metadata"] == {
            "episode_id": written.id.encode(), "file_path": b"", "natural_language_instruction": b"pick up the cup", "language_instruction": b"pick up the cup",
            "success": written.success, "task": b"cup", "suite": b"libero_object", "seed": 3, "weight": 0.5, "versions": {"mujoco": b"3.1"},
            "objects": b'["cup", "bowl"]',
        }  # fmt: skip
        for number, (sample, step) in enumerate(zip(written.steps, found["steps"], strict=True)):
            np.testing.assert_array_equal(step["action"], np.float32(sample.action))
            np.testing.assert_array_equal(step["observation"]["state"], np.float32(sample.state))
            np.testing.assert_array_equal(step["observation"]["joint_state"], np.float32(sample.fields["joint_state"]))
            assert step["observation"]["contact"] == sample.fields["contact"]
            assert (step["is_first"], step["is_last"]) == (number == 0, number == len(written.steps) - 1)
            assert step["is_terminal"] == (number == len(written.steps) - 1 and bool(written.success))
            assert (step["reward"], step["discount"], step["language_instruction"]) == (0.25, 1.0, b"pick up the cup")
            for camera, key in (("primary", "image"), ("wrist", "wrist_image"), ("side", "side_image")):
                buffer = io.BytesIO()
                Image.fromarray(sample.images[camera]).save(buffer, format="JPEG", quality=95)
                assert step["observation"][key] == buffer.getvalue()


@pytest.mark.parametrize(("success", "rewards", "terminal"), [(True, [0, 1], True), (False, [0, 0], False), (None, [0, 0], True)])
def test_rewards_and_ends_follow_the_success_where_a_sample_does_not_say(tmp_path: Path, success: bool | None, rewards: list[float], terminal: bool) -> None:
    given = episode("one", 2, success=success)
    found = read(record(tmp_path, replace(given, steps=[replace(sample, fields={}) for sample in given.steps])))[0]
    assert [step["reward"] for step in found["steps"]] == rewards
    assert [bool(step["is_terminal"]) for step in found["steps"]] == [False, terminal]
    assert ("success" in found["episode_metadata"]) == (success is not None)


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    given = episode("one")
    found = read(record(tmp_path, given, image_format="png"))[0]
    for sample, step in zip(given.steps, found["steps"], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(step["observation"]["image"]))), sample.images["primary"])


@pytest.mark.parametrize(("encoding", "same"), [("jpeg", True), ("png", False)])
def test_a_picture_that_is_encoded_already_is_copied(tmp_path: Path, encoding: str, same: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(buffer, format="JPEG", quality=30)
    pictures = Pictures({camera: Encoded(buffer.getvalue(), "here") for camera in ("primary", "wrist", "side")})
    given = episode("one")
    found = read(record(tmp_path, replace(given, steps=[replace(sample, images=pictures) for sample in given.steps]), image_format=encoding))[0]
    assert (found["steps"][0]["observation"]["image"] == buffer.getvalue()) == same


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_the_same_episodes_give_the_same_bytes_in_another_process_without_tensorflow(tmp_path: Path, form: str) -> None:
    here = record(tmp_path / "here", episode("one"), episode("two"), file_format=form)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; import test_recorder_rlds as t\n"
        f"t.record(Path({str(tmp_path / 'there')!r}), t.episode('one'), t.episode('two'), file_format={form!r}); assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(here) == files(tmp_path / "there/libero/1.0.0")
    assert files(here) != files(record(tmp_path / "other", episode("two"), episode("one"), file_format=form))


def test_records_are_spread_over_files_of_a_size_in_order(tmp_path: Path) -> None:
    folder = record(tmp_path, *(episode(str(number)) for number in range(5)), shard_bytes=20_000)
    names = sorted(path.name for path in folder.glob("*array_record*"))
    info = tfds.builder_from_directory(folder).info.splits["train"]
    assert names == [f"libero-train.array_record-{number:05d}-of-{len(names):05d}" for number in range(len(names))]
    assert len(names) > 1
    assert (list(info.shard_lengths), info.num_examples) == ([1] * 5, 5)
    assert [one["episode_metadata"]["episode_id"] for one in read(folder)] == [b"0", b"1", b"2", b"3", b"4"]


def test_an_episode_without_steps_is_kept_in_its_place(tmp_path: Path) -> None:
    folder = record(tmp_path, episode("none", 0), episode("one"), episode("empty", 0))
    assert [(one["episode_metadata"]["episode_id"], len(one["steps"])) for one in read(folder)] == [(b"none", 0), (b"one", 3), (b"empty", 0)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (episode("two", action=6), r"step key 'action'[\s\S]*two, step 0[\s\S]*float32 \(6,\)[\s\S]*float32 \(7,\)"),
        (episode("two", size=16), r"step key 'observation.image'[\s\S]*picture of 16 x 16"),
        (episode("two", success=None), r"episode_metadata key 'success'[\s\S]*no such key"),
        (episode("two", fields={**FIELDS, "seed": "three"}), r"key 'seed'[\s\S]*text[\s\S]*int64"),
        (episode("two", fields={**FIELDS, "more": 1}), "key 'more'"),
    ],
)
def test_an_episode_that_differs_from_the_first_is_refused_and_nothing_is_left(tmp_path: Path, second: Episode, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        record(tmp_path, episode("one"), second)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"action": None}, "without an action"), ({"fields": {"event": "grasp"}}, "field event"), ({"fields": {"latent": {"a": 1}}}, "field latent")],
)
def test_a_step_that_has_no_place_in_the_format_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    given = episode("one")
    with pytest.raises(UsageError, match=message):
        record(tmp_path, replace(given, steps=[replace(sample, **changes) for sample in given.steps]))


def test_a_copied_picture_without_a_readable_header_is_refused(tmp_path: Path) -> None:
    given = episode("one")
    pictures = Pictures({"primary": Encoded(b"\xff\xd8\xff and nothing else", "here")})
    with pytest.raises(DamagedError, match="no readable header"):
        record(tmp_path, replace(given, steps=[replace(sample, images=pictures) for sample in given.steps]))


def test_a_field_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="field thing"):
        record(tmp_path, episode("one", fields={"thing": {1, 2}}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_format": "parquet"}, "file format"),
        ({"image_format": "gif"}, "image format"),
        ({"name": "My Data"}, "name of a dataset"),
        ({"split": "train[:1]"}, "name of a split"),
    ],
)
def test_an_option_that_is_none_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RLDSRecorder(**options)


@pytest.mark.parametrize("given", [[], [episode("none", 0)]])
def test_nothing_to_record_is_an_error(tmp_path: Path, given: list[Episode]) -> None:
    with pytest.raises(UsageError, match="nothing to record"):
        record(tmp_path, *given)


def test_a_recording_that_breaks_off_leaves_nothing_that_can_be_read(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def breaking() -> Iterator[Episode]:
        yield episode("one")
        seen.append([path.name for path in (tmp_path / "libero").iterdir()])
        raise RuntimeError("the simulator is gone")

    with pytest.raises(RuntimeError, match="the simulator is gone"):
        RLDSRecorder(file_format="array_record").write(breaking(), tmp_path)
    assert len(seen) == 1
    assert all(name.startswith(".1.0.0-unfinished-") for name in seen[0])
    assert not list((tmp_path / "libero").iterdir())


def test_a_disk_without_room_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(MissingError, match=r"cannot be written[\s\S]*make room"):
            RLDSRecorder(file_format="array_record").write((episode(str(number), size=200) for number in range(8)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "libero").iterdir())
    assert record(tmp_path, *(episode(str(number), size=200) for number in range(8))).is_dir()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingError, match="cannot be written"):
        record(tmp_path / "file", episode("one"))


def test_episodes_are_asked_for_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counted(Episode):
        def __del__(self) -> None:
            alive.remove(id(self))

    def stream() -> Iterator[Episode]:
        for number in range(4):
            one = episode(str(number))
            counted = Counted(one.id, one.instruction, one.steps, one.success, one.fields)
            alive.append(id(counted))
            assert len(alive) <= 2  # the one that is being handed over, and the one before
            yield counted
            del counted

    RLDSRecorder(file_format="array_record").write(stream(), tmp_path)
    assert not alive


def test_a_dataset_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    before = files(record(tmp_path, episode("one")))
    with pytest.raises(UsageError, match="already"):
        record(tmp_path, episode("two"))
    assert files(tmp_path / "libero/1.0.0") == before


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with whole(tmp_path / "data") as unfinished:
        (unfinished / "file").write_text("half")
        assert not (tmp_path / "data").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "file"]


@pytest.mark.parametrize(("package", "extra"), [("tensorflow_datasets", "rlds"), ("array_record.python.array_record_module", "rlds")])
def test_a_package_that_is_not_installed_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError, match=rf"vla-harness\[{extra}\]"):
        record(tmp_path, episode("one"))
