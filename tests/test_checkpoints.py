"""A checkpoint is whole or refused before anything is loaded; one digest tells which one it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from harness.checkpoints import _digests
from harness.checkpoints import canonical_digest, directory_digest, file_digest, locate, published_sha256, verify, verify_digests
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
    "only a configuration": (lambda folder: no_weights(folder, "vocabulary.txt"), r"holds no weights(.|\n)*vocabulary\.txt(.|\n)*\*\.bin or an orbax tree"),
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

    monkeypatch.setattr(_digests, "file_digest", counted)
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


# ---------------------------------------------------------------- torch files


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with one file of torch.save: two tensors, one of them empty."""
    import torch

    folder = tmp_path / "archive"
    folder.mkdir()
    torch.save({"state_dict": {"a": torch.arange(100.0), "b": torch.zeros(0)}}, folder / "model.pt")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["model.pt", "checkpoints/model.pt", "pytorch_model.bin"])
def test_a_whole_torch_file_is_accepted(archive: Path, name: str) -> None:
    (archive / name).parent.mkdir(exist_ok=True)
    (archive / "model.pt").rename(archive / name)
    assert verify(archive) is None


def edited(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def other_zip(path: Path) -> None:
    with ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")


def swapped_members(content: bytes) -> bytes:
    """The first member's local header damaged; sizes and directory are as they were."""
    return b"PK\x03\x04" + content[4:].replace(b"PK\x03\x04", b"PK\x03\x05", 1)


ARCHIVES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a git-lfs pointer": (lambda path: path.write_bytes(POINTER), r"git-lfs pointer(.|\n)*model\.pt(.|\n)*git lfs pull"),
    "an HTML page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><title>401</title>"), r"this is a web page(.|\n)*model\.pt(.|\n)*download it again"),
    "an empty file": (lambda path: path.write_bytes(b""), r"this is an empty file(.|\n)*0 bytes"),
    "a pickle of old": (lambda path: path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), r"begins with b'.x80(.|\n)*torch 1\.6"),
    "one byte too few": (edited(lambda content: content[:-1]), r"truncated, padded or altered(.|\n)*model\.pt(.|\n)*\d+ bytes"),
    "half the file": (edited(lambda content: content[: len(content) // 2]), r"truncated, padded or altered"),
    "only its beginning": (edited(lambda content: content[:6]), r"truncated, padded or altered"),
    "one byte too many": (edited(lambda content: content + b"\0"), r"truncated, padded or altered"),
    "a block of zeros behind it": (edited(lambda content: content + bytes(4096)), r"truncated, padded or altered"),
    "a comment behind it": (edited(lambda content: content[:-2] + b"\x01\x00x"), r"truncated, padded or altered"),
    "bytes taken out of a tensor": (edited(lambda content: content[:1000] + content[1100:]), r"truncated, padded or altered"),
    "bytes put into a tensor": (edited(lambda content: content[:1000] + bytes(100) + content[1000:]), r"truncated, padded or altered"),
    "a member's header overwritten": (edited(swapped_members), r"truncated, padded or altered(.|\n)*is not at byte"),
    "its beginning overwritten": (edited(lambda content: bytes(4) + content[4:]), r"begins with b'.x00"),
    "another zip": (other_zip, r"this zip holds no weights(.|\n)*readme\.txt(.|\n)*data\.pkl"),
}


@pytest.mark.parametrize("damage", ARCHIVES)
@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_a_damaged_torch_file_is_refused_with_its_name(archive: Path, damage: str, name: str) -> None:
    spoil, match = ARCHIVES[damage]
    spoil(archive / "model.pt")
    (archive / "model.pt").rename(archive / name)
    with pytest.raises(DamagedError, match=match.replace(r"model\.pt", name.replace(".", r"\."))):
        verify(archive)


def test_a_torch_file_cut_anywhere_is_refused(archive: Path) -> None:
    path = archive / "model.pt"
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(DamagedError):
            verify(archive)


def test_a_pickle_beside_safetensors_is_not_looked_at(checkpoint: Path) -> None:
    (checkpoint / "training_args.bin").write_bytes(b"anything")
    assert verify(checkpoint) is None
    (checkpoint / "model.pt").write_bytes(b"anything")
    with pytest.raises(DamagedError, match=r"begins with b'anything'"):
        verify(checkpoint)


@pytest.mark.parametrize(("content", "match"), [(POINTER, r"git-lfs pointer(.|\n)*config\.json"), (b"{", r"config\.json is not JSON"), (b"", r"config\.json is not JSON"), (b"\xff\xfe{", r"config\.json is not JSON"), (b"<html>", r"config\.json is not JSON")])
def test_a_configuration_that_is_none_is_refused(checkpoint: Path, content: bytes, match: str) -> None:
    (checkpoint / "config.json").write_bytes(content)
    with pytest.raises(DamagedError, match=match):
        verify(checkpoint)


# ---------------------------------------------------------------- Hugging Face caches


@pytest.fixture
def cache(checkpoint: Path) -> Path:
    """The checkpoint as a cache holds it: blobs by digest, one snapshot of links, a reference."""
    folder = checkpoint.parent / "models--lab--model-7b"
    snapshot = folder / "snapshots/0a1b"
    for name in ("blobs", "refs", "snapshots/0a1b"):
        (folder / name).mkdir(parents=True)
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        large = path.suffix == ".safetensors"
        blob = folder / "blobs" / (hashlib.sha256(content).hexdigest() if large else hashlib.sha1(content).hexdigest())
        blob.write_bytes(content)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (folder / "refs/main").write_text("0a1b")
    return folder


def shard(cache: Path) -> Path:
    return cache / "snapshots/0a1b" / "model-00001-of-00002.safetensors"


def second(cache: Path, name: str = "9f9f") -> Path:
    """Another whole snapshot."""
    folder = cache / "snapshots" / name
    folder.mkdir()
    for path in (cache / "snapshots/0a1b").iterdir():
        (folder / path.name).symlink_to(os.readlink(path))
    return folder


def test_a_folder_stands_for_itself(checkpoint: Path, cache: Path) -> None:
    assert locate(checkpoint) == checkpoint
    assert locate(cache / "snapshots/0a1b") == cache / "snapshots/0a1b"
    assert locate(checkpoint / "nowhere") == checkpoint / "nowhere"


def test_a_cache_stands_for_its_snapshot(cache: Path) -> None:
    assert locate(cache) == cache / "snapshots/0a1b"
    assert verify(cache) is None
    (cache / "refs/main").unlink()
    assert locate(cache) == cache / "snapshots/0a1b"


def test_main_goes_before_other_snapshots(cache: Path) -> None:
    other = second(cache)
    assert locate(cache) == cache / "snapshots/0a1b"
    (cache / "refs/main").write_text("9f9f\n")
    assert locate(cache) == other


def test_two_snapshots_without_main_are_refused_unless_one_is_whole(cache: Path) -> None:
    other = second(cache)
    (cache / "refs/main").unlink()
    with pytest.raises(DamagedError, match=r"several snapshots(.|\n)*0a1b, 9f9f(.|\n)*pass the folder"):
        locate(cache)
    (cache / "snapshots/0a1b/lost").symlink_to("nowhere")
    assert locate(cache) == other


def only(cache: Path, *files: str) -> None:
    import shutil

    shutil.rmtree(cache)
    for name in files:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("")


def without_shard(cache: Path) -> None:
    """The large files never arrived; the small ones are there."""
    for path in (cache / "snapshots/0a1b").glob("*.safetensors*"):
        path.unlink()
    (cache / "blobs" / f"{'c' * 64}.incomplete").write_bytes(b"half")


UNFINISHED: Mapping[str, tuple[Callable[[Path], object], type[HarnessError], str]] = {
    "only locks": (lambda cache: only(cache, "aa.lock", "bb.lock"), MissingError, r"never finished(.|\n)*2 locks(.|\n)*snapshots/REVISION"),
    "only the folder": (lambda cache: only(cache, "refs/main"), MissingError, r"never finished(.|\n)*refs"),
    "an empty snapshot's name": (lambda cache: only(cache, "refs/main", "snapshots/.keep"), MissingError, r"never finished"),
    "half a file": (lambda cache: only(cache, "refs/main", f"blobs/{'c' * 64}.incomplete", "x.lock"), DamagedError, r"never finished(.|\n)*1 unfinished files and 1 locks"),
    "a blob gone": (lambda cache: shard(cache).resolve().unlink(), DamagedError, r"links to nothing(.|\n)*1: model-00001-of-00002\.safetensors"),
    "the large files unfinished": (without_shard, DamagedError, r"never finished(.|\n)*1 unfinished files"),
    "main gone, another whole": (lambda cache: [second(cache), (cache / "snapshots/0a1b/lost").symlink_to("nowhere")], DamagedError, r"links to nothing(.|\n)*1: lost"),
}


@pytest.mark.parametrize("case", UNFINISHED)
def test_an_unfinished_download_says_what_to_run(cache: Path, case: str) -> None:
    spoil, kind, match = UNFINISHED[case]
    spoil(cache)
    with pytest.raises(kind, match=match) as caught:
        verify(cache)
    assert caught.value.next == "harness download lab/model-7b"


def test_a_broken_snapshot_named_by_itself_says_so_too(cache: Path) -> None:
    shard(cache).resolve().unlink()
    with pytest.raises(DamagedError, match=r"links to nothing(.|\n)*harness download lab/model-7b"):
        verify(cache / "snapshots/0a1b")


def test_a_dangling_link_in_any_folder_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").symlink_to("nowhere")
    with pytest.raises(DamagedError, match=r"links to nothing(.|\n)*tokenizer\.json") as caught:
        verify(checkpoint)
    assert caught.value.next is None


def test_large_files_of_a_cache_carry_their_digest(cache: Path, checkpoint: Path) -> None:
    assert published_sha256(shard(cache)) == hashlib.sha256(shard(cache).read_bytes()).hexdigest()
    assert published_sha256(shard(cache).resolve()) == shard(cache).resolve().name
    assert published_sha256(cache / "snapshots/0a1b/config.json") is None  # a small file's blob has git's name
    assert published_sha256(first(checkpoint)) is None


@pytest.mark.parametrize("start", ["", "snapshots/0a1b"])
def test_published_digests_are_compared_with_the_content(cache: Path, start: str) -> None:
    seen = []
    assert verify_digests(cache / start, lambda done, total, label: seen.append((done, total, label))) == 2
    assert [label for _, _, label in seen] == [shard(cache).name, shard(cache).name.replace("00001", "00002", 1)]
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in shard(cache).parent.glob("*.safetensors"))


def test_one_bit_of_a_large_file_is_seen(cache: Path) -> None:
    blob = shard(cache).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert verify(cache) is None  # by its header it is whole
    with pytest.raises(DamagedError, match=rf"not what was published(.|\n)*{blob.name}(.|\n)*delete(.|\n)*harness download lab/model-7b"):
        verify_digests(cache)


def test_a_folder_of_one_s_own_has_nothing_to_compare(checkpoint: Path) -> None:
    assert verify_digests(checkpoint) == 0


@pytest.fixture
def orbax(tmp_path: Path) -> Path:
    """An orbax tree by its files, which is all that is looked at."""
    tree = tmp_path / "run" / "params"
    (tree / "d").mkdir(parents=True)
    (tree / "_METADATA").write_text('{"tree_metadata": {}}')
    (tree / "manifest.ocdbt").write_bytes(b"\x0c\xdb")
    (tree / "d" / "4ad51e6f").write_bytes(b"\x0c\xdb\x20")
    return tree


@pytest.mark.parametrize("given", ["", "params"])
def test_an_orbax_tree_is_accepted_by_its_run_or_by_itself(orbax: Path, given: str) -> None:
    verify(orbax.parent / given)


ORBAX_DAMAGE: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda tree: (tree / "manifest.ocdbt").unlink(), "no manifest.ocdbt"),
    "no description": (lambda tree: (tree / "_METADATA").unlink(), "no _METADATA"),
    "no data": (lambda tree: (tree / "d" / "4ad51e6f").unlink(), "no data files"),
    "empty data": (lambda tree: (tree / "d" / "4ad51e6f").write_bytes(b""), "is empty"),
    "a pointer": (lambda tree: (tree / "d" / "4ad51e6f").write_bytes(POINTER), "git-lfs pointer"),
    "no JSON": (lambda tree: (tree / "_METADATA").write_text("{"), "description is not readable"),
    "another JSON": (lambda tree: (tree / "_METADATA").write_text("[]"), "description is not readable"),
    "unfinished": (lambda tree: (tree / "d.orbax-checkpoint-tmp-3").mkdir(), "never finished"),
}


@pytest.mark.parametrize("damage", ORBAX_DAMAGE)
def test_a_damaged_orbax_tree_is_refused(orbax: Path, damage: str) -> None:
    spoil, match = ORBAX_DAMAGE[damage]
    spoil(orbax)
    with pytest.raises(DamagedError, match=match):
        verify(orbax.parent)
