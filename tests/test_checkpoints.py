"""A checkpoint is whole or refused before anything is loaded; one digest tells which one it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from harness import checkpoints
from harness.checkpoints import canonical_digest, directory_digest, file_digest, verify
from harness.errors import DamagedError, HarnessError, MissingError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two shards with their index and a configuration."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    weight_map = {}
    for number in (1, 2):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file({f"layer.{number}.weight": np.arange(12, dtype=np.float32).reshape(3, 4) + number}, folder / name)
        weight_map[f"layer.{number}.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text('{"hidden_size": 4}')
    return folder


def first(folder: Path) -> Path:
    return folder / "model-00001-of-00002.safetensors"


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_a_whole_checkpoint_is_accepted(checkpoint: Path) -> None:
    assert verify(checkpoint) is None


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_metadata_and_empty_tensors_are_accepted(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"empty": np.zeros((0, 3), np.float32), "one": np.ones(1, np.float16)}, tmp_path / "model.safetensors", metadata=metadata)
    assert verify(tmp_path) is None


def shorten(path: Path, count: int) -> None:
    os.truncate(path, path.stat().st_size - count)


DAMAGES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a git-lfs pointer": (lambda folder: first(folder).write_bytes(POINTER), r"git-lfs pointer(.|\n)*model-00001(.|\n)*git lfs pull"),
    "one byte too few": (lambda folder: shorten(first(folder), 1), r"is truncated(.|\n)*model-00001(.|\n)*got      (\d+) bytes(.|\n)*expected \d+ bytes"),
    "half the data": (lambda folder: shorten(first(folder), 24), r"is truncated"),
    "one byte too many": (lambda folder: first(folder).open("ab").write(b"\0"), r"is padded"),
    "cut inside the header": (lambda folder: os.truncate(first(folder), 20), r"ends inside its header(.|\n)*20 bytes(.|\n)*a header of"),
    "an HTML page": (lambda folder: first(folder).write_bytes(b"<!DOCTYPE html><title>401</title>" * 9), r"ends inside its header"),
    "a header that is not JSON": (lambda folder: first(folder).write_bytes(with_header(b"not json")), r"header is not readable(.|\n)*model-00001"),
    "a header that is not text": (lambda folder: first(folder).write_bytes(with_header(b"\xff\xfe\xff")), r"header is not readable"),
    "an absent shard": (lambda folder: first(folder).unlink(), r"shards are missing(.|\n)*1 absent: model-00001(.|\n)*2 shards named by model\.safetensors\.index"),
    "the later shard truncated": (lambda folder: shorten(folder / "model-00002-of-00002.safetensors", 4), r"is truncated(.|\n)*model-00002"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_its_file(checkpoint: Path, damage: str) -> None:
    spoil, match = DAMAGES[damage]
    spoil(checkpoint)
    with pytest.raises(DamagedError, match=match):
        verify(checkpoint)


def no_weights(folder: Path, *files: str) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")


ABSENCES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "an empty directory": (no_weights, r"holds no weights(.|\n)*an empty directory"),
    "only a lock": (lambda folder: no_weights(folder, "model.safetensors.lock"), r"holds no weights(.|\n)*model\.safetensors\.lock(.|\n)*\*\.safetensors"),
    "only a download folder": (lambda folder: no_weights(folder, ".cache/model.safetensors.incomplete"), r"holds no weights(.|\n)*\.cache"),
    "only a pickle": (lambda folder: no_weights(folder, "pytorch_model.bin"), r"holds no weights(.|\n)*pytorch_model\.bin"),
    "no directory": (lambda folder: folder.rename(folder.with_name("moved")), r"no checkpoint here(.|\n)*config\.json and weights"),
}


@pytest.mark.parametrize("absence", ABSENCES)
def test_an_absent_checkpoint_is_missing_with_the_command_that_provides_it(checkpoint: Path, absence: str) -> None:
    spoil, match = ABSENCES[absence]
    spoil(checkpoint)
    with pytest.raises(MissingError, match=match) as caught:
        verify(checkpoint, next="fetch it")
    assert caught.value.next == "fetch it"


def test_a_file_in_place_of_the_directory_is_missing(checkpoint: Path) -> None:
    with pytest.raises(MissingError, match="no checkpoint here"):
        verify(checkpoint / "config.json")


@pytest.mark.parametrize("content", [b"", b"vers"])
def test_an_empty_or_tiny_file_is_not_called_a_git_lfs_pointer(checkpoint: Path, content: bytes) -> None:
    first(checkpoint).write_bytes(content)
    with pytest.raises(DamagedError, match="ends inside its header"):
        verify(checkpoint)


@pytest.mark.parametrize("header", [b"[]", b"5", b'{"a": 5}', b'{"a": {}}', b'{"a": {"data_offsets": 3}}', b'{"a": {"data_offsets": [0]}}'])
def test_a_header_of_another_shape_is_damaged(checkpoint: Path, header: bytes) -> None:
    first(checkpoint).write_bytes(with_header(header))
    with pytest.raises(DamagedError):
        verify(checkpoint)


@pytest.mark.parametrize("index", ['{"weight_map": {', "{}", "[]", '{"weight_map": 5}'])
def test_an_index_that_is_no_index_is_damaged(checkpoint: Path, index: str) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(index)
    with pytest.raises(HarnessError):
        verify(checkpoint)


def rename(folder: Path) -> None:
    (folder / "config.json").rename(folder / "configuration.json")


def flip(folder: Path) -> None:
    content = bytearray(first(folder).read_bytes())
    content[-1] ^= 1
    first(folder).write_bytes(content)


def swap(folder: Path) -> None:
    paths = sorted(folder.glob("*.safetensors"))
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [flip, rename, swap, lambda folder: (folder / "extra.json").touch(), lambda folder: (folder / "config.json").unlink()],
    ids=["one bit", "a name", "two shards exchanged", "an empty file added", "a file removed"],
)
def test_the_digest_changes_with_names_and_bytes(checkpoint: Path, change: Callable[[Path], object]) -> None:
    before = directory_digest(checkpoint)
    change(checkpoint)
    assert directory_digest(checkpoint) != before


def test_the_digest_does_not_depend_on_place_or_time(checkpoint: Path) -> None:
    before = directory_digest(checkpoint)
    os.utime(first(checkpoint), (1, 1))
    assert directory_digest(checkpoint.rename(checkpoint.with_name("moved"))) == before
    assert len(before) == 64 and set(before) <= set("0123456789abcdef")


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are digested, in order."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(checkpoints, "file_digest", counted)
    return names


def test_a_remembered_file_is_not_read_again(checkpoint: Path, tmp_path: Path, read_files: list[str]) -> None:
    memory = tmp_path / "home/digests.json"
    digests = [directory_digest(checkpoint, memory) for _ in range(3)]
    assert len(set(digests)) == 1
    assert len(read_files) == 4
    assert digests[0] == directory_digest(checkpoint)


def test_a_changed_file_is_read_again_and_only_it(checkpoint: Path, tmp_path: Path, read_files: list[str]) -> None:
    memory = tmp_path / "digests.json"
    before = directory_digest(checkpoint, memory)
    read_files.clear()
    flip(checkpoint)
    os.utime(first(checkpoint), ns=(1, 1))
    assert directory_digest(checkpoint, memory) != before
    assert read_files == [first(checkpoint).name]


def test_a_memory_serves_several_directories(checkpoint: Path, tmp_path: Path, read_files: list[str]) -> None:
    memory, other = tmp_path / "digests.json", tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    for folder in (checkpoint, other, checkpoint, other):
        directory_digest(folder, memory)
    assert len(read_files) == 5


@pytest.mark.parametrize("content", ["", "{", "not json"])
def test_a_damaged_memory_is_rebuilt(checkpoint: Path, tmp_path: Path, content: str) -> None:
    memory = tmp_path / "digests.json"
    memory.write_text(content)
    assert directory_digest(checkpoint, memory) == directory_digest(checkpoint)
    assert len(json.loads(memory.read_text())) == 4


def test_a_memory_of_another_json_type_is_rebuilt(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("[]")
    assert directory_digest(checkpoint, tmp_path / "digests.json") == directory_digest(checkpoint)


@pytest.mark.parametrize("size", [0, 1, 4096, 200_001])
def test_a_file_digest_is_blake3_of_the_bytes(tmp_path: Path, size: int) -> None:
    from blake3 import blake3

    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == blake3(content).hexdigest()


@given(value=st.dictionaries(st.text(max_size=4), JSON, max_size=5))
def test_the_order_of_keys_does_not_change_a_canonical_digest(value: dict[str, object]) -> None:
    assert canonical_digest(dict(reversed(value.items()))) == canonical_digest(value)


@given(one=JSON, other=JSON)
def test_different_values_have_different_canonical_digests(one: object, other: object) -> None:
    assert (canonical_digest(one) == canonical_digest(other)) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))
