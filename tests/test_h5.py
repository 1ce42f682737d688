"""H5 episodes of document 003: read as they lie, damaged ones named, written ones read back the same."""

from __future__ import annotations

import os
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import readers
from harness.datasets.h5 import H5
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.recorders.h5 import H5Recorder
from harness.types import Broken, Episode, Sample

h5py = pytest.importorskip("h5py", reason="pip install 'vla-harness[h5]' -c constraints.txt")

STEM = "episode_20251106_145248_1box_hori_left_core_easy"


def picture(step: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """A picture that says which step it is of."""
    return np.full((*size, 3), 10 * step + 1, np.uint8)


def episode(path: Path, steps: int = 4, **changed: Any) -> Path:
    """A file in the documented layout; a key given as None is left out."""
    arrays = {
        "images": np.stack([picture(step) for step in range(steps)]) if steps else np.zeros((0, 6, 8, 3), np.uint8),
        "actions": np.arange(steps * 3, dtype=np.float32).reshape(steps, 3),
        "action_event_types": np.array([b"episode_start", *[b"start_action"] * steps][:steps], dtype=object),
        "language_instruction": np.array(["go left to the größten box".encode()], dtype="S256"),
        **changed,
    }
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file.create_dataset(key, data=value, **({"dtype": h5py.string_dtype()} if getattr(value, "dtype", None) == object else {}))
    return path


def test_an_episode_is_read_as_the_document_lays_it_out(tmp_path: Path) -> None:
    episode(tmp_path / f"{STEM}.h5")
    reader = H5(tmp_path)
    samples = list(reader)
    assert len(reader) == 1 and [sample.id for sample in samples] == [f"{STEM}/{step:04d}" for step in range(4)]
    for step, sample in enumerate(samples):
        assert isinstance(sample, Sample)
        assert np.array_equal(sample.images["primary"], picture(step)) and sample.images["primary"].dtype == np.uint8
        assert sample.action.dtype == np.float32 and sample.action.tolist() == [3 * step, 3 * step + 1, 3 * step + 2]
        assert (sample.instruction, sample.episode, sample.step) == ("go left to the größten box", STEM, step)
        assert sample.group == "1box_hori_left_core_easy" and sample.state is None
        assert sample.fields == {
            "event": "start_action" if step else "episode_start",
            "scenario": {"boxes": 1, "orientation": "hori", "side": "left", "pattern": "core", "difficulty": "easy"},
        }


def test_order_is_that_of_file_names_and_a_range_gives_what_the_whole_gives(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        episode(tmp_path / f"{name}.h5", steps=2)
    reader = H5(tmp_path)
    ids = [sample.id for sample in reader]
    assert ids == ["a/0000", "a/0001", "b/0000", "b/0001", "c/0000", "c/0001"]
    assert [sample.id for sample in reader.read(1, 2)] == ids[2:4]
    assert [sample.id for sample in H5(tmp_path / "b.h5")] == ids[2:4]
    assert {sample.group for sample in reader} == {"a", "b", "c"}  # names that follow no pattern


@pytest.mark.parametrize(
    ("stored", "default", "read"),
    [
        (None, None, ""),
        (None, "navigate", "navigate"),
        (np.array([b"bytes"], dtype="S256"), "navigate", "bytes"),
        (np.array(["text"], dtype=object), None, "text"),
        ("scalar", None, "scalar"),
        (np.array([b"a", b"b"], dtype="S4"), None, "a"),
        (np.array([b""], dtype="S256"), "navigate", ""),
    ],
    ids=["absent", "absent with a default", "bytes", "text", "scalar", "one per step", "empty is kept"],
)
def test_an_instruction_comes_as_bytes_or_text_or_not_at_all(tmp_path: Path, stored: Any, default: str | None, read: str) -> None:
    episode(tmp_path / "a.h5", steps=2, language_instruction=stored)
    assert next(iter(H5(tmp_path, default_instruction=default))).instruction == read


def truncated(path: Path) -> None:
    data = episode(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


BROKEN = {
    "truncated": (truncated, "truncated"),
    "empty file": (lambda path: path.write_bytes(b""), "not readable"),
    "another format": (lambda path: path.write_bytes(b"PK\3\4" + bytes(600)), "not readable"),
    "no steps": (lambda path: episode(path, steps=0), "no steps"),
    "not UTF-8": (lambda path: episode(path, language_instruction=np.array([b"go \xff\xfe left"], dtype="S256")), "not UTF-8"),
    "a number": (lambda path: episode(path, language_instruction=np.array([3])), "no text: int64"),
    "lengths": (lambda path: episode(path, actions=np.zeros((3, 3), np.float32)), "images 4, actions 3"),
    "events": (lambda path: episode(path, action_event_types=np.array([b"x"], dtype=object)), "action_event_types 1"),
    "instructions": (lambda path: episode(path, language_instruction=np.array([b"a", b"b"], dtype="S4")), "2 for 4 steps"),
    "actions": (lambda path: episode(path, actions=np.array([b"x"] * 4, dtype="S4")), "actions are no numbers"),
    "no pictures": (lambda path: episode(path, images=None), "no images; its keys are action_event_types, actions"),
    "flat pictures": (lambda path: episode(path, images=np.zeros((4, 6), np.uint8)), r"uint8 \(4, 6\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_episode_is_named_and_reading_goes_on(tmp_path: Path, name: str) -> None:
    damage, reason = BROKEN[name]
    episode(tmp_path / "a.h5")
    damage(tmp_path / "b.h5")
    episode(tmp_path / "c.h5")
    found = list(H5(tmp_path))
    broken = [record for record in found if isinstance(record, Broken)]
    assert [record.episode for record in found] == ["a"] * 4 + ["b"] + ["c"] * 4
    assert [record.id for record in broken] == ["b"]
    assert re.search(reason, broken[0].reason)


def test_an_unreadable_first_file_does_not_hide_the_keys_of_the_others(tmp_path: Path) -> None:
    truncated(tmp_path / "a.h5")
    episode(tmp_path / "b.h5")
    reader = H5(tmp_path)
    assert reader.keys()["images"] == "uint8 (4, 6, 8, 3)" and set(reader.keys()) == {"images", "actions", "action_event_types", "language_instruction"}


@pytest.mark.parametrize("option", ["image_key", "action_key", "instruction_key"])
def test_a_wrong_key_answers_with_the_keys_that_exist(tmp_path: Path, option: str) -> None:
    episode(tmp_path / "a.h5")
    with pytest.raises(UnknownNameError, match="no key in these H5 episodes named 'imagse'") as caught:
        H5(tmp_path, **{option: "imagse"})
    assert all(key in str(caught.value) for key in ("images", "actions", "action_event_types", "language_instruction"))


def test_an_instruction_key_may_be_absent_from_some_files(tmp_path: Path) -> None:
    episode(tmp_path / "a.h5", steps=1)
    episode(tmp_path / "b.h5", steps=1, task=np.array([b"push"], dtype="S8"))
    assert [sample.instruction for sample in H5(tmp_path, instruction_key="task", default_instruction="wait")] == ["wait", "push"]


def test_a_folder_without_episodes_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.h5"):
        with pytest.raises(MissingError, match="no H5 episodes here"):
            H5(path)


def test_the_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = episode(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    for use in (lambda: H5(path), lambda: H5Recorder().write([], tmp_path)):
        with pytest.raises(MissingError, match=r"need the h5py package(.|\n)*vla-harness\[h5\]"):
            use()


def test_no_handle_stays_open_and_pictures_survive_pickling_and_threads(tmp_path: Path) -> None:
    for number in range(30):
        episode(tmp_path / f"{number:02d}.h5", steps=3)
    before = len(os.listdir("/proc/self/fd"))
    samples = list(pickle.loads(pickle.dumps(H5(tmp_path))))
    samples = pickle.loads(pickle.dumps(samples))
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda sample: sample.images["primary"], samples))
    assert all(np.array_equal(found, picture(sample.step)) for found, sample in zip(pictures, samples, strict=True))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_look_at_a_file_that_has_gone_bad_says_so(tmp_path: Path) -> None:
    sample = next(iter(H5(episode(tmp_path / "a.h5"))))
    truncated(tmp_path / "a.h5")
    with pytest.raises(DamagedError, match=r"an H5 file is not readable(.|\n)*a\.h5"):
        sample.images["primary"]


def test_identity_follows_every_byte_and_not_the_time(tmp_path: Path) -> None:
    path = episode(tmp_path / "a.h5")
    before = H5(tmp_path).identity()
    os.utime(path, (0, 0))
    assert H5(tmp_path).identity() == before
    with h5py.File(path, "r+") as file:
        file["images"][2, 3, 3, 0] = 0
    assert H5(tmp_path).identity() != before


def test_large_datasets_are_told_apart_by_pieces_of_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.datasets import _identity

    monkeypatch.setattr(_identity, "WHOLE_BELOW", 10)
    file = tmp_path / "a"
    file.write_bytes(bytes(10 * _identity.PIECE))
    before = _identity.files_identity(tmp_path, [file])
    assert before[0][:2] == ["a", 10 * _identity.PIECE]
    for place, told in ((-1, True), (5 * _identity.PIECE, True), (2 * _identity.PIECE, False)):
        content = bytearray(10 * _identity.PIECE)
        content[place] = 1
        file.write_bytes(content)
        assert (_identity.files_identity(tmp_path, [file]) != before) == told


def test_the_format_is_recognised_by_its_files(tmp_path: Path) -> None:
    assert not H5.recognises(tmp_path) and not H5.recognises("some_name")
    assert H5.recognises(episode(tmp_path / "a.h5")) and H5.recognises(tmp_path)
    assert isinstance(readers.stream(str(tmp_path)).reader, H5)


def steps(count: int = 3, **changed: Any) -> list[Sample]:
    images = {"primary": picture(1), "wrist": picture(2)}
    own = [{"action": np.arange(7.0) + n, "state": np.arange(8.0) - n, "fields": {"event": f"e{n}"}} for n in range(count)]
    return [Sample(f"s{n}", images=images, **{**values, **changed}) for n, values in enumerate(own)]


def test_a_written_episode_is_read_back_the_same(tmp_path: Path) -> None:
    text = "legt die Äpfel " * 20  # 320 bytes: wider than the documented field
    written = H5Recorder().write([Episode("suite/task 3", text, steps(), True), Episode("other", "", steps(2), None)], tmp_path)
    other, first = H5(written).files
    assert (other.name, first.name) == ("other.h5", "suite_task_3.h5")
    for step, sample in enumerate(H5(first)):
        assert (sample.instruction, sample.id, sample.fields) == (text, f"suite_task_3/{step:04d}", {"event": f"e{step}", "success": True})
        assert np.array_equal(sample.images["primary"], picture(1)) and np.array_equal(sample.images["wrist"], picture(2))
        assert np.array_equal(sample.action, np.arange(7, dtype=np.float32) + step) and np.array_equal(sample.state, np.arange(8, dtype=np.float32) - step)
    assert [("success" in sample.fields, sample.instruction) for sample in H5(other)] == [(False, "")] * 2


def test_the_layout_written_is_the_documented_one(tmp_path: Path) -> None:
    path = H5(H5Recorder(picture_size=(12, 10)).write([Episode("a", "go", steps(fields={}))], tmp_path)).files[0]
    with h5py.File(path) as file:
        layout = {key: (value.shape, str(value.dtype)) for key, value in file.items()}
        assert file["language_instruction"][0] == b"go" and list(file["action_event_types"]) == [b"episode_start", b"start_action", b"start_action"]
    assert layout == {
        "images": ((3, 12, 10, 3), "uint8"),
        "images_wrist": ((3, 12, 10, 3), "uint8"),
        "actions": ((3, 7), "float32"),
        "state": ((3, 8), "float32"),
        "action_event_types": ((3,), "object"),
        "language_instruction": ((1,), "|S256"),
    }


def test_the_same_episodes_give_the_same_bytes(tmp_path: Path) -> None:
    files = [H5(H5Recorder().write([Episode("a", "go", steps())], tmp_path / name)).files[0] for name in ("x", "y")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("episodes", "error"),
    [
        ([], "no episodes to write"),
        ([Episode("a", "", [])], "an episode has no steps"),
        ([Episode("a b", "", steps()), Episode("a/b", "", steps())], "two episodes would become one file"),
        ([Episode("a", "", steps(2, state=None) + steps(1))], "the state of an episode's steps differ in shape"),
        ([Episode("a", "", steps(action=None))], "the action of an episode's steps differ in shape"),
        ([Episode("a", "", [*steps(1), Sample("s", images={"primary": picture(1)}, action=np.zeros(7))])], "cameras of an episode's steps differ"),
        ([Episode("a", "", [Sample("s", images={"primary": picture(1, size)}, action=np.zeros(2)) for size in ((4, 4), (5, 4))])], "differ in size"),
    ],
    ids=["nothing", "no steps", "same file", "state", "action", "cameras", "sizes"],
)
def test_episodes_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path, episodes: list[Episode], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        H5Recorder().write(episodes, tmp_path)
    assert not list(tmp_path.iterdir())
