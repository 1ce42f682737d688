"""The RLDS reader in both file formats against TFDS's own reading, and against files that are not what they should be.

Everything that imports TensorFlow is in this file, the recorder's tfrecord files too, so that one worker imports it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.datasets import _rlds_location as location
from harness.datasets import _rlds_records as record_files
from harness.datasets._rlds_splits import Range
from harness.datasets._rlds_tensorflow import tensorflow
from harness.datasets.rlds import RLDS
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.pictures import Encoded, Pictures
from harness.recorders._tfrecord import TFRecordWriter
from harness.recorders.rlds import RLDSRecorder
from harness.types import Broken, Episode, Sample

tfds = pytest.importorskip("tensorflow_datasets", reason="needs pip install 'vla-harness[rlds]'")

ROOT = Path(__file__).resolve().parent.parent
FORMATS = ("array_record", "tfrecord")
CAMERAS = {"primary": "observation.image", "wrist": "observation.wrist_image"}
LENGTHS = (2, 6, 3, 4, 5)


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def episodes(lengths: tuple[int, ...] = LENGTHS, picture: Callable[[int], bytes] = jpeg) -> Iterator[Episode]:
    generator = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        instruction = f"pick up the {('cup', 'bowl')[number % 2]} in café {number}"
        steps = [
            Sample(
                f"{number}/{step}",
                instruction,
                Pictures({"primary": Encoded(picture(100 * number + step), ""), "wrist": Encoded(jpeg(100 * number + step + 50), "")}),
                generator.normal(size=8).astype(np.float32),
                generator.normal(size=7).astype(np.float32),
            )
            for step in range(length)
        ]
        yield Episode(f"e{number}", instruction, steps, number % 2 == 0, {"seed": number, "versions": {"mujoco": "3.1"}})


@contextmanager
def standard_error(into: list[str]) -> Iterator[None]:
    """Collects what Python and C++ write to the process's standard error."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            into.append(file.read().decode())


NOISE: list[str] = []


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same five episodes in both formats, each in several files."""
    folder = tmp_path_factory.mktemp("rlds")
    paths = {}
    for file_format in FORMATS:
        with standard_error(NOISE):
            paths[file_format] = RLDSRecorder(file_format=file_format, shard_bytes=22_000).write(episodes(), folder / file_format)
            list(RLDS(paths[file_format]))
    return paths


@pytest.fixture(params=FORMATS)
def dataset(request: pytest.FixtureRequest, recorded: dict[str, Path]) -> Path:
    return recorded[request.param]


@pytest.fixture
def copied(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


def written(folder: Path, features: Mapping[str, Any], *records: Mapping[str, Any]) -> Path:
    """A dataset in array_record with these features, by TFDS's own means."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True)
    kinds = tfds.features.FeaturesDict(features)
    writer = ArrayRecordWriter(str(folder / "odd-train.array_record-00000-of-00001"), "group_size:1")
    for one in records:
        writer.write(kinds.serialize_example(one))
    writer.close()
    template = tfds.core.ShardedFileTemplate(folder, dataset_name="odd", split="train", filetype_suffix="array_record")
    split = tfds.core.SplitInfo(name="train", shard_lengths=[len(records)], num_bytes=1, filename_template=template)
    tfds.folder_dataset.write_metadata(data_dir=folder, features=kinds, split_infos=[split], version="1.0.0", check_data=False)
    return folder


def steps_of(extra: Mapping[str, Any]) -> Any:
    return tfds.features.Dataset({"observation": {"image": tfds.features.Image(shape=(32, 32, 3), encoding_format="jpeg")}, **extra})


def told(sample: Sample | Broken) -> object:
    """Everything of a sample that can be compared."""
    if isinstance(sample, Broken):
        return sample
    pictures = {camera: source.data for camera, source in sample.images.sources.items()}
    fields = {**sample.fields, "action": sample.fields["action"].tobytes()}
    return (sample.id, sample.instruction, sample.group, sample.episode, sample.step, sample.state.tobytes(), sample.action.tobytes(), pictures, fields)


def test_both_formats_give_the_samples_that_were_recorded(recorded: dict[str, Path]) -> None:
    found = {file_format: list(RLDS(path, image_key=CAMERAS, state_key="observation.state")) for file_format, path in recorded.items()}
    assert [told(one) for one in found["tfrecord"]] == [told(one) for one in found["array_record"]]
    given = [(number, step, one, sample) for number, one in enumerate(episodes()) for step, sample in enumerate(one.steps)]
    for (number, step, one, sample), read in zip(given, found["tfrecord"], strict=True):
        assert (read.id, read.episode, read.step) == (f"train/{number:06d}/{step:04d}", f"train/{number:06d}", step)
        assert read.instruction == read.group == one.instruction
        assert (read.state.dtype, read.action.dtype) == (np.float32, np.float32)
        np.testing.assert_array_equal(read.state, sample.state)
        np.testing.assert_array_equal(read.action, sample.action)
        for camera in CAMERAS:
            assert read.images.sources[camera].data == sample.images.sources[camera].data
            np.testing.assert_array_equal(read.images[camera], sample.images[camera])
        last = step == len(one.steps) - 1
        assert (read.fields["is_first"], read.fields["is_last"], read.fields["reward"]) == (step == 0, last, float(last and bool(one.success)))
        assert json.loads(json.dumps(read.fields["episode_metadata"])) == {
            "episode_id": f"e{number}", "file_path": "", "language_instruction": one.instruction, "natural_language_instruction": one.instruction,
            "success": one.success, "seed": number, "versions": {"mujoco": "3.1"},
        }  # fmt: skip


def test_the_order_and_the_values_are_those_of_plain_tfds(recorded: dict[str, Path]) -> None:
    config = tfds.ReadConfig(interleave_cycle_length=1)
    skip = {"steps": {"observation": {"image": tfds.decode.SkipDecoding()}}}
    plain = tfds.as_numpy(tfds.builder_from_directory(recorded["tfrecord"]).as_dataset(split="train", read_config=config, decoders=skip))
    expected = [step for one in plain for step in one["steps"]]
    for path in recorded.values():
        found = list(RLDS(path, state_key="observation.state", instruction_key="language_instruction"))
        for step, sample in zip(expected, found, strict=True):
            assert sample.images.sources["primary"].data == step["observation"]["image"]
            assert sample.instruction == step["language_instruction"].decode()
            np.testing.assert_array_equal(sample.action, step["action"])
            np.testing.assert_array_equal(sample.state, step["observation"]["state"])


def test_pictures_decode_to_what_tfds_decodes(recorded: dict[str, Path]) -> None:
    source = tfds.builder_from_directory(recorded["array_record"]).as_data_source(split="train")
    for step, sample in zip(source[1]["steps"], RLDS(recorded["array_record"]).read(1, 2), strict=True):
        np.testing.assert_array_equal(sample.images["primary"], step["observation"]["image"])


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train", [0, 1, 2, 3, 4]), ("train[:40%]", [0, 1]), ("train[1:3]", [1, 2]), ("train[-2:]", [3, 4]), ("train[3:]+train[:1]", [3, 4, 0]),
        ("train[60%:]", [3, 4]), ("train[2:2]", []), ("all", [0, 1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_an_episode_has_the_same_ids_in_every_slice_and_format(dataset: Path, split: str, numbers: list[int]) -> None:
    reader = RLDS(dataset, split=split)
    assert len(reader) == len(numbers)
    assert [sample.id for sample in reader] == [f"train/{number:06d}/{step:04d}" for number in numbers for step in range(LENGTHS[number])]


def test_any_range_is_that_part_of_the_whole(dataset: Path) -> None:
    reader = RLDS(dataset, split="train[3:]+train[:2]", image_key=CAMERAS, state_key="observation.state")
    parts = [[told(sample) for sample in reader.read(number, number + 1)] for number in range(len(reader))]
    for start, stop in ((0, 5), (0, 2), (1, 3), (2, 4), (3, 9), (2, 2)):
        assert [told(sample) for sample in reader.read(start, stop)] == [one for part in parts[start:stop] for one in part]


def test_reading_begins_at_the_first_episode_asked_for(copied: Path) -> None:
    first = sorted(copied.glob("libero-train*"))[0]
    first.write_bytes(b"")
    reader = RLDS(copied)
    assert all(isinstance(sample, Sample) for sample in reader.read(2, 5))
    numbers = [one.number for one in record_files.records(reader._builder, Range("train", 3, 5), reader._format)]
    assert numbers == [3, 4]


def test_pictures_stay_encoded_and_a_broken_one_is_found_on_looking(tmp_path: Path) -> None:
    cut = lambda seed: jpeg(seed)[: 900 if seed == 1 else None]  # noqa: E731
    path = RLDSRecorder(file_format="array_record").write(episodes((3,), cut), tmp_path)
    found = list(RLDS(path))
    assert [len(sample.images) for sample in found] == [1, 1, 1]
    assert found[0].images["primary"].shape == (32, 32, 3)
    with pytest.raises(DamagedError, match=r"cannot be decoded\n  where    train/000000/0001, observation.image"):
        found[1].images["primary"]


def test_samples_and_readers_cross_process_borders(dataset: Path) -> None:
    reader = RLDS(dataset, split="train[1:3]", image_key=CAMERAS, state_key="observation.state")
    again = pickle.loads(pickle.dumps(reader))
    assert [told(sample) for sample in again] == [told(sample) for sample in pickle.loads(pickle.dumps(list(reader)))]


def test_the_libraries_write_nothing_to_standard_error(recorded: dict[str, Path]) -> None:
    assert NOISE == ["", ""]


def test_tensorflow_is_told_to_be_quiet_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    for name in quiet:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingError, match="tensorflow package"):
        tensorflow("here")
    assert {name: os.environ.pop(name, None) for name in quiet} == quiet


def test_tensorflow_leaves_the_gpus_to_the_model_and_torch_sees_them(recorded: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    hidden: list[object] = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *arguments: hidden.append(arguments))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    list(RLDS(recorded["tfrecord"]))
    assert hidden == [([], "GPU")]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_array_record_is_read_without_tensorflow_and_names_are_known_without_tfds(recorded: dict[str, Path]) -> None:
    program = (
        "import sys; from pathlib import Path; from harness.datasets.rlds import RLDS\n"
        "known = [RLDS.recognises(name) for name in ('bridge', 'fractal20220817_data', 'taco_play:0.1.0', 'lerobot/pusht', 'libero_instructions')]\n"
        "assert known == [True, True, True, False, False], known\n"
        f"assert RLDS.recognises(Path({str(recorded['array_record'])!r})) and 'tensorflow_datasets' not in sys.modules\n"
        f"found = list(RLDS(Path({str(recorded['array_record'])!r}), split='train[:50%]')); found[0].images['primary']\n"
        "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules; print(len(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sum(LENGTHS[:2])}\n", "")


@pytest.mark.parametrize(
    ("option", "key", "message"),
    [
        ("image_key", "observation.img", "no image key named 'observation.img'; the nearest is 'observation.image'"),
        ("image_key", {"primary": "observation.image", "wrist": "wrist_image"}, "nearest is 'observation.wrist_image'"),
        ("image_key", "observation.state", "no image key"),
        ("instruction_key", "episode_metadata.instruction", r"no instruction key[\s\S]*episode_metadata.natural_language_instruction"),
        ("instruction_key", "observation.image", "no instruction key"),
        ("state_key", "state", r"no state key[\s\S]*nearest is 'observation.state'"),
        ("state_key", "observation", "no state key"),
        ("action_key", "actions", "nearest is 'action'"),
        ("split", "validation", r"no split named 'validation'; the nearest is 'train'"),
    ],
)
def test_a_wrong_key_is_answered_at_opening_with_those_that_are_there(recorded: dict[str, Path], option: str, key: Any, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        RLDS(recorded["array_record"], **{option: key})


@pytest.mark.parametrize(
    ("split", "message"),
    [("train[:99]", "train has 5 episodes"), ("train[a:b]", "cannot be read"), ("train[:3]+train[2:]", "names episodes twice"), ("", "no split named ''")],
)
def test_a_split_expression_that_makes_no_sense_is_refused(recorded: dict[str, Path], split: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RLDS(recorded["array_record"], split=split)


def test_keys_are_listed_with_kind_and_shape(dataset: Path) -> None:
    found = RLDS(dataset).keys()
    assert {key: found[key] for key in ("observation.image", "action", "is_last", "language_instruction", "episode_metadata.versions.mujoco")} == {
        "observation.image": "uint8 (32, 32, 3) jpeg",
        "action": "float32 (7,)",
        "is_last": "bool",
        "language_instruction": "text",
        "episode_metadata.versions.mujoco": "text",
    }


@pytest.mark.parametrize("stored", [b"\xff\xfe open", b"open \xc3"])
def test_an_instruction_that_is_not_utf8_breaks_its_steps_alone(tmp_path: Path, stored: bytes) -> None:
    features = {"steps": steps_of({"text": tfds.features.Text(), "action": tfds.features.Tensor(shape=(2,), dtype=np.float32)})}
    step = {"observation": {"image": jpeg(0)}, "action": np.zeros(2, np.float32)}
    path = written(tmp_path / "odd", features, {"steps": [{**step, "text": "open"}, {**step, "text": stored}, {**step, "text": ""}]})
    good, broken, blank = RLDS(path, instruction_key="text")
    assert (good.instruction, blank.instruction, blank.step) == ("open", "", 2)
    assert (broken.id, broken.episode) == ("train/000000/0001", "train/000000")
    assert "not UTF-8" in broken.reason


def test_an_instruction_of_an_episode_that_is_not_utf8_breaks_each_of_its_steps(tmp_path: Path) -> None:
    features = {"steps": steps_of({"action": tfds.features.Scalar(dtype=np.float32)}), "episode_metadata": {"text": tfds.features.Text()}}
    steps = [{"observation": {"image": jpeg(0)}, "action": 0.5}] * 2
    path = written(tmp_path / "odd", features, {"steps": steps, "episode_metadata": {"text": b"\xff"}}, {"steps": steps, "episode_metadata": {"text": b"go"}})
    found = list(RLDS(path, instruction_key="episode_metadata.text"))
    assert [one.id for one in found if isinstance(one, Broken)] == ["train/000000/0000", "train/000000/0001"]
    assert [one.instruction for one in found if isinstance(one, Sample)] == ["go", "go"]


def test_a_compressed_array_that_is_damaged_breaks_its_step_alone(tmp_path: Path) -> None:
    def features(state: Any) -> dict[str, Any]:
        return {"steps": steps_of({"text": tfds.features.Text(), "action": tfds.features.Scalar(dtype=np.float32), "state": state})}

    stored = [zlib.compress(np.float32([1, 2]).tobytes()), b"no such thing"]
    steps = [{"observation": {"image": jpeg(0)}, "text": "go", "action": 0.5, "state": one} for one in stored]
    path = written(tmp_path / "odd", features(tfds.features.Text()), {"steps": steps})
    tfds.features.FeaturesDict(features(tfds.features.Tensor(shape=(2,), dtype=np.float32, encoding="zlib"))).save_config(path)
    good, broken = RLDS(path, instruction_key="text", state_key="state")
    assert good.state.tolist() == [1, 2]
    assert isinstance(broken, Broken)
    assert (broken.id, "decompress" in broken.reason) == ("train/000000/0001", True)


def test_nested_actions_raw_pictures_and_a_text_in_an_array_are_read(tmp_path: Path) -> None:
    kinds = tfds.features
    action = {"world": kinds.Tensor(shape=(3,), dtype=np.float32), "gripper": kinds.Scalar(dtype=np.float32), "stop": kinds.Scalar(dtype=np.int64)}
    depth = kinds.Image(shape=(4, 5, 1), dtype=np.uint16, encoding_format="png")
    features = {
        "steps": steps_of({"frame": kinds.Tensor(shape=(4, 5, 3), dtype=np.uint8), "depth": depth, "action": kinds.FeaturesDict(action)}),
        "episode_metadata": {"instruction": kinds.Tensor(shape=(1,), dtype=np.object_), "pose": kinds.Tensor(shape=(2,), dtype=np.float32)},
    }
    frame = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(buffer, format="PNG")
    moved = {"world": np.float32([1, 2, 3]), "gripper": 0.5, "stop": 1}
    step = {"observation": {"image": jpeg(0)}, "frame": frame, "depth": buffer.getvalue(), "action": moved}
    path = written(tmp_path / "odd", features, {"steps": [step], "episode_metadata": {"instruction": ["heb de beker op"], "pose": [0.5, 1.5]}})
    (sample,) = RLDS(path, image_key="frame", instruction_key="episode_metadata.instruction", state_key="action.world")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sample)).images["primary"], frame)
    assert (sample.instruction, sample.action.tolist(), sample.state.tolist()) == ("heb de beker op", [0.5, 1, 1, 2, 3], [1, 2, 3])
    assert (list(sample.fields["action"]), sample.fields["action"]["stop"]) == (["gripper", "stop", "world"], 1)
    assert sample.fields["episode_metadata"] == {"instruction": ["heb de beker op"], "pose": [0.5, 1.5]}
    with pytest.raises(UnknownNameError, match=r"no image key[\s\S]*frame, observation.image"):
        RLDS(path, image_key="depth", instruction_key="episode_metadata.instruction")


def test_a_disk_without_room_for_tfrecord_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(MissingError, match=r"cannot be written[\s\S]*make room"):
            RLDSRecorder().write(episodes((400, 400)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "libero").iterdir())


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_episode_without_steps_is_one_broken_record(tmp_path: Path, file_format: str) -> None:
    path = RLDSRecorder(file_format=file_format).write(episodes((2, 0, 1)), tmp_path)
    found = list(RLDS(path))
    assert [one.id for one in found] == ["train/000000/0000", "train/000000/0001", "train/000001", "train/000002/0000"]
    assert (found[2], found[2].reason) == (Broken("train/000001", "the episode has no steps", "train/000001"), "the episode has no steps")


def test_a_record_of_other_features_is_one_broken_episode(tmp_path: Path) -> None:
    action = tfds.features.Tensor(shape=(2,), dtype=np.float32)
    features = {"steps": steps_of({"text": tfds.features.Text(), "action": action})}
    step = {"observation": {"image": jpeg(0)}, "text": "go", "action": [0, 1]}
    path = written(tmp_path / "odd", features, {"steps": [step, step]})
    text = (path / "features.json").read_text()
    (path / "features.json").write_text(text.replace('"action"', '"motion"'))
    (found,) = RLDS(path, instruction_key="text", action_key="motion")
    assert isinstance(found, Broken)
    assert (found.id, found.reason.startswith("the record does not fit the dataset's features")) == ("train/000000", True)


def lost(path: Path, parts: tuple[tuple[int, int], ...] = ((0, 5),)) -> list[int]:
    """The numbers of the broken episodes, all others being whole, however the range is cut."""
    reader = RLDS(path)
    found = [sample for start, stop in parts for sample in reader.read(start, stop)]
    broken = [int(one.id.removeprefix("train/")) for one in found if isinstance(one, Broken)]
    assert all(one.reason and one.episode == one.id for one in found if isinstance(one, Broken))
    whole = [f"train/{number:06d}/{step:04d}" for number in range(5) if number not in broken for step in range(LENGTHS[number])]
    assert [one.id for one in found if isinstance(one, Sample)] == whole
    return broken


@pytest.fixture(scope="module")
def undivided(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same five episodes in one file of each format."""
    return {one: RLDSRecorder(file_format=one).write(episodes(), tmp_path_factory.mktemp("undivided") / one) for one in FORMATS}


def one_file(source: Path, tmp_path: Path) -> tuple[Path, Path]:
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    return folder, next(folder.glob("libero-train*"))


def offsets(file: Path) -> list[int]:
    """Where each record of a tfrecord file begins: 8 bytes of length, 4 of check sum, the record, 4 of check sum."""
    data, found = file.read_bytes(), [0]
    while found[-1] < len(data):
        found.append(found[-1] + 16 + struct.unpack("<Q", data[found[-1] : found[-1] + 8])[0])
    return found


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


CUTS = (((0, 5),), ((0, 1), (1, 3), (3, 5)))


@pytest.mark.parametrize("parts", CUTS)
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda file, starts: flip(file, starts[1] + 100), [1]),
        (lambda file, starts: (flip(file, starts[1] + 100), flip(file, starts[2] + 100)), [1, 2]),
        (lambda file, starts: flip(file, starts[3] + 1), [3, 4]),
        (lambda file, starts: os.truncate(file, starts[2] + 50), [2, 3, 4]),
        (lambda file, starts: os.truncate(file, starts[4] + 5), [4]),
        (lambda file, starts: os.truncate(file, starts[3]), [3, 4]),
        (lambda file, starts: os.truncate(file, 0), [0, 1, 2, 3, 4]),
        (lambda file, starts: file.write_text("version https://git-lfs.github.com/spec/v1\n" * 4), [0, 1, 2, 3, 4]),
        (lambda file, starts: None, []),
    ],
    ids=["a record", "two records", "a length", "cut in a record", "cut in a length", "cut between", "emptied", "a pointer", "none"],
)
def test_damage_in_a_tfrecord_file_costs_the_episodes_it_reaches(
    undivided: dict[str, Path], tmp_path: Path, damage: Callable[[Path, list[int]], object], expected: list[int], parts: tuple[tuple[int, int], ...]
) -> None:
    folder, file = one_file(undivided["tfrecord"], tmp_path)
    damage(file, offsets(file))
    assert lost(folder, parts) == expected


@pytest.mark.parametrize("size", [65_536, 100_000, 10])
def test_a_cut_array_record_file_costs_all_its_episodes(undivided: dict[str, Path], tmp_path: Path, size: int) -> None:
    folder, file = one_file(undivided["array_record"], tmp_path)
    assert lost(folder) == []
    os.truncate(file, size)
    assert lost(folder) == lost(folder, CUTS[1]) == [0, 1, 2, 3, 4]


def test_a_flipped_byte_in_an_array_record_file_costs_its_episode_and_is_never_read_as_data(undivided: dict[str, Path], tmp_path: Path) -> None:
    folder, file = one_file(undivided["array_record"], tmp_path)
    whole, costs = file.read_bytes(), set()
    true = {sample.id: told(sample) for sample in RLDS(folder, state_key="observation.state")}
    for at in range(1000, 40_000, 3000):
        flip(file, at)
        costs.add(tuple(lost(folder)))
        assert all(told(sample) == true[sample.id] for sample in RLDS(folder, state_key="observation.state") if isinstance(sample, Sample))
        file.write_bytes(whole)
    assert costs <= {(), (0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)}  # all where the file's own index was hit
    assert len([cost for cost in costs if len(cost) == 1]) > 2


def test_a_file_that_is_not_there_costs_its_episodes_and_no_other(copied: Path) -> None:
    counts = tfds.builder_from_directory(copied).info.splits["train"].shard_lengths
    sorted(copied.glob("libero-train*"))[1].unlink()
    assert lost(copied) == list(range(counts[0], counts[0] + counts[1]))


def test_files_are_closed_behind_the_reading(recorded: dict[str, Path]) -> None:
    reader = RLDS(recorded["array_record"])
    before = len(os.listdir("/proc/self/fd"))
    reading = reader.read(0, 5)
    next(reading)
    assert len(os.listdir("/proc/self/fd")) > before
    del reading
    assert len(os.listdir("/proc/self/fd")) == before


def test_identity_follows_the_content_and_not_the_place_or_time(dataset: Path, copied: Path) -> None:
    first = RLDS(dataset).identity()
    for file in copied.iterdir():
        os.utime(file, (0, 0))
    assert json.loads(json.dumps(RLDS(copied).identity())) == json.loads(json.dumps(first))
    flip(sorted(copied.glob("libero-train*"))[0], 300)
    assert RLDS(copied).identity() != first


def test_identity_of_a_slice_covers_its_own_files_only(recorded: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(recorded["array_record"], tmp_path / "copy"))
    first = RLDS(copy, split="train[:1]").identity()
    flip(sorted(copy.glob("libero-train*"))[-1], 300)
    assert RLDS(copy, split="train[:1]").identity() == first


def test_identity_in_a_bucket_is_told_by_the_description_alone(recorded: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RLDS(recorded["array_record"])
    monkeypatch.setattr(location, "is_remote", lambda source: True)
    name, version, splits = json.loads(json.dumps(reader.identity()))
    assert (name, version, sum(splits["train"][0])) == ("libero", "1.0.0", 5)


@pytest.mark.parametrize(("level", "known"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_folder_is_recognised_by_a_dataset_in_it_or_up_to_two_levels_below(recorded: dict[str, Path], level: int, known: bool) -> None:
    folder = [recorded["array_record"], *recorded["array_record"].parents][level]
    assert RLDS.recognises(folder) == known
    if known:
        assert len(RLDS(folder)) == 5


def test_a_recording_that_was_killed_is_not_taken_for_a_dataset(recorded: dict[str, Path], tmp_path: Path) -> None:
    unfinished = tmp_path / "libero/.1.0.0-unfinished-1a2b3c4d"
    shutil.copytree(recorded["array_record"], unfinished)
    assert not RLDS.recognises(tmp_path)
    unfinished.rename(tmp_path / "libero/1.0.0")
    assert RLDS.recognises(tmp_path)


@pytest.mark.parametrize("source", ["gs://bucket/name/1.0.0", "bridge", "taco_play"])
def test_addresses_and_registered_names_are_recognised(source: str) -> None:
    assert RLDS.recognises(source)


@pytest.mark.parametrize(
    "source",
    ["libero_instructions", "some/path", "lerobot/pusht", "s3://bucket/name", "no such thing", Path("nowhere"), ROOT / "README.md", ROOT / "harness"],
)
def test_other_sources_are_not_recognised(source: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert not RLDS.recognises(source)


def test_a_name_is_looked_for_where_datasets_are_prepared(recorded: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = recorded["array_record"].parent.parent
    assert len(RLDS("libero", data_dir=str(root))) == len(RLDS("libero:1.0.0", data_dir=str(root))) == len(RLDS("libero/1.0.0", data_dir=str(root))) == 5
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert RLDS.recognises("libero")
    assert len(RLDS("libero")) == 5


def test_the_newest_version_of_a_name_is_read(recorded: dict[str, Path], tmp_path: Path) -> None:
    for version in ("1.0.0", "0.9.0", "1.10.0", "1.9.0"):
        target = Path(shutil.copytree(recorded["array_record"], tmp_path / "libero" / version))
        (target / "dataset_info.json").write_text((target / "dataset_info.json").read_text().replace('"1.0.0"', f'"{version}"'))
    assert str(RLDS("libero", data_dir=str(tmp_path))._builder.version) == "1.10.0"
    with pytest.raises(UsageError, match=r"several datasets lie here[\s\S]*4 datasets"):
        RLDS(tmp_path / "libero")


def no_network(*_: object, **__: object) -> None:
    import tensorflow as tf

    raise tf.errors.FailedPreconditionError(None, None, "Could not resolve host")


@pytest.mark.parametrize(("source", "function"), [("bridge", "builder"), ("gs://bucket/bridge/0.1.0", "builder_from_directory")])
def test_a_dataset_behind_the_network_is_missing_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, function: str) -> None:
    monkeypatch.setattr(tfds, function, no_network)
    with pytest.raises(MissingError, match=r"Could not resolve host[\s\S]*--tfds_data_dir DIRECTORY, or the path of a local copy"):
        RLDS(source, data_dir=str(tmp_path))


def test_a_registered_name_is_read_from_its_bucket(recorded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Importer:
        info = type("Info", (), {"splits": {}})

        def get_ds_builder(self) -> object:
            return tfds.builder_from_directory(recorded["array_record"])

    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Importer())
    assert len(RLDS("bridge", data_dir=str(tmp_path))) == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_name", "no dataset that TFDS registers"),
        (Path("nowhere"), "no dataset here"),
        ("nowhere/at/all", "no dataset here"),
        ("robosuite_panda_pick_place_can", "nobody has prepared it"),
    ],
)
def test_a_dataset_that_is_not_here_is_missing(tmp_path: Path, source: Path | str, message: str) -> None:
    with pytest.raises(MissingError, match=message):
        RLDS(source, data_dir=str(tmp_path))


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text())) and None


def other_suffix(folder: Path) -> None:
    for path in folder.glob("libero-train*"):
        path.rename(folder / path.name.replace(".array_record", ".tfrecord"))


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (edit("dataset_info.json", lambda text: text[:100]), DamagedError, "cannot read a dataset's description"),
        (edit("features.json", lambda text: text[:100]), DamagedError, "cannot read a dataset's description"),
        (edit("features.json", lambda text: text.replace("text_feature.Text", "text_feature.Texts")), DamagedError, "cannot read a dataset's description"),
        (lambda folder: (folder / "features.json").unlink(), DamagedError, "lacks its description\n[\\s\\S]*no features.json"),
        (lambda folder: (folder / "dataset_info.json").unlink(), DamagedError, "no TFDS dataset"),
        (edit("features.json", lambda text: text.replace('"steps"', '"frames"')), DamagedError, "is not RLDS"),
        (edit("dataset_info.json", lambda text: text.replace('"array_record"', '"parquet"')), UsageError, "not read from this file format[\\s\\S]*parquet"),
        (other_suffix, DamagedError, r"not where its description says[\s\S]*libero-train.tfrecord[\s\S]*libero-train.array_record"),
    ],
    ids=["info cut", "features cut", "unknown feature", "no features", "no info", "not RLDS", "parquet", "other files"],
)
def test_a_folder_that_is_not_what_it_says_is_refused_at_opening(
    recorded: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], kind: type[HarnessError], message: str
) -> None:
    copy = Path(shutil.copytree(recorded["array_record"], tmp_path / "copy"))
    damage(copy)
    with pytest.raises(kind, match=message):
        RLDS(copy)


def test_tfds_that_is_not_installed_is_named_with_its_command(recorded: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(MissingError, match=r"tensorflow_datasets package[\s\S]*vla-harness\[rlds\]"):
        RLDS(recorded["array_record"])


def test_tensorflow_that_is_not_installed_is_named_with_its_command(recorded: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RLDS(recorded["tfrecord"])
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingError, match=r"tensorflow package[\s\S]*vla-harness\[tfrecord\]"):
        list(reader)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 255, 4096, 100_001])
def test_a_tfrecord_file_is_byte_for_byte_what_tensorflow_writes(tmp_path: Path, size: int) -> None:
    import tensorflow as tf

    records = [np.random.default_rng(seed).bytes(size) for seed in range(3)]
    for writer in (TFRecordWriter(tmp_path / "ours"), tf.io.TFRecordWriter(str(tmp_path / "theirs"))):
        for record in records:
            writer.write(record)
        writer.close()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_array_record_that_is_not_installed_is_named_with_its_command(recorded: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RLDS(recorded["array_record"])

    def lacking(**_: object) -> None:
        raise ImportError("no such module", name="array_record")

    monkeypatch.setattr(reader._builder, "as_data_source", lacking)
    with pytest.raises(MissingError, match=r"array_record package[\s\S]*vla-harness\[rlds\]"):
        list(reader)
