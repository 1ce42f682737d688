"""Readers: the shipped datasets are what their cards say, in a fixed order, and damaged files are refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import readers
from harness.datasets.instructions import Instructions
from harness.datasets.photos import Photos
from harness.errors import DamagedError, UnknownNameError, UsageError

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "fixtures/data/libero_instructions.json"


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The repository's own cards; nothing read is kept for the next test."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HARNESS_CARDS", raising=False)
    readers.read.cache_clear()
    yield
    readers.read.cache_clear()


@pytest.mark.parametrize(("name", "count"), [("libero_instructions", 112), ("libero_rewordings", 40), ("photos", 8)])
def test_a_dataset_has_the_samples_its_title_names(name: str, count: int) -> None:
    found = readers.read(name)
    assert (found.name, len(found.samples)) == (name, count)
    assert len({sample.id for sample in found.samples}) == count
    assert all(sample.instruction.strip() and sample.group for sample in found.samples)


@pytest.mark.parametrize("name", ["libero_instructions", "libero_rewordings", "photos"])
def test_reading_twice_gives_the_same_order_and_digest(name: str) -> None:
    first = readers.read(name)
    readers.read.cache_clear()
    second = readers.read(name)
    assert first.samples is not second.samples
    assert first.digest == second.digest
    assert [(sample.id, sample.instruction, sample.group) for sample in first.samples] == [(sample.id, sample.instruction, sample.group) for sample in second.samples]


def test_datasets_have_digests_of_their_own() -> None:
    assert len({readers.read(name).digest for name in ("libero_instructions", "libero_rewordings", "photos")}) == 3


def test_the_instructions_differ_and_follow_the_file() -> None:
    stored = [entry["instruction"] for entry in json.loads(DATA.read_text(encoding="utf-8"))["instructions"]]
    read = [sample.instruction for sample in readers.read("libero_instructions").samples]
    assert read == stored
    assert len(set(read)) == 112


def test_every_rewording_belongs_to_a_task_and_says_it_otherwise() -> None:
    tasks = {sample.group: sample.instruction for sample in readers.read("libero_instructions").samples}
    for sample in readers.read("libero_rewordings").samples:
        assert sample.instruction.lower() != tasks[sample.group].lower()


def test_photographs_are_real_and_differ() -> None:
    samples = readers.read("photos").samples
    pictures = [sample.images["primary"] for sample in samples]
    for picture in pictures:
        assert (picture.shape, picture.dtype) == ((240, 320, 3), np.uint8)
        assert picture.std() > 20  # neither a blank nor a flat one
        assert len(np.unique(picture)) > 200
        assert np.abs(np.diff(picture.astype(int), axis=0)).mean() < picture.std()  # neighbours agree, unlike in noise
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert len({sample.instruction for sample in samples}) == len(samples)


def test_a_photograph_can_be_changed_without_changing_the_next_reading() -> None:
    first, again = next(iter(Photos(DATA, n=1))), next(iter(Photos(DATA, n=1)))
    assert np.array_equal(first.images["primary"], again.images["primary"])
    first.images["primary"][:] = 0
    assert again.images["primary"].any()


def test_templates_multiply_the_samples_and_keep_the_group(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps({"instructions": [{"id": "a", "instruction": "open it"}, {"id": "b", "instruction": "shut it", "of": "a"}]}), encoding="utf-8")
    found = list(Instructions(path, templates=("{}", "please {}!")))
    assert [(sample.id, sample.instruction, sample.group) for sample in found] == [
        ("a/0", "open it", "a"),
        ("b/0", "shut it", "a"),
        ("a/1", "please open it!", "a"),
        ("b/1", "please shut it!", "a"),
    ]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"instructions": 3}', '{"instructions": ["a"]}', '{"instructions": [{"id": "a"}]}', b"\xff\xfe"],
    ids=["empty", "cut short", "a list", "no list", "a number", "no objects", "no instruction", "not text"],
)
def test_a_damaged_file_is_refused_whole(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "tasks.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DamagedError, match=r"an instruction file is not readable(.|\n)*tasks\.json"):
        list(Instructions(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="an instruction file is not readable"):
        list(Instructions(tmp_path / "none.json"))


def card(folder: Path, **fields: Any) -> None:
    (folder / "datasets").mkdir(parents=True, exist_ok=True)
    entries = {"name": "mine", "reader": "instructions", "title": "t", "source": "s", "licence": "l", "path": "mine.json", **fields}
    (folder / "datasets/mine.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items()), encoding="utf-8")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of cards with one dataset of two samples."""
    card(tmp_path)
    (tmp_path / "datasets/mine.json").write_text('{"instructions": [{"id": "a", "instruction": "x"}, {"id": "b", "instruction": "y"}]}', encoding="utf-8")
    monkeypatch.setenv("HARNESS_CARDS", str(tmp_path))
    return tmp_path


def test_a_card_s_path_is_relative_to_the_card(mine: Path) -> None:
    assert [sample.instruction for sample in readers.read("mine").samples] == ["x", "y"]


def test_the_digest_follows_the_bytes_of_the_file(mine: Path) -> None:
    before = readers.read("mine").digest
    readers.read.cache_clear()
    path = mine / "datasets/mine.json"
    path.write_text(path.read_text(encoding="utf-8").replace("y", "z"), encoding="utf-8")
    assert readers.read("mine").digest != before


def test_a_card_that_points_nowhere_is_refused(mine: Path) -> None:
    (mine / "datasets/mine.json").unlink()
    with pytest.raises(DamagedError, match="points to a file that is not there(.|\n)*mine, field path"):
        readers.read("mine")


def test_repeated_ids_are_refused(mine: Path) -> None:
    (mine / "datasets/mine.json").write_text(json.dumps({"instructions": [{"id": "a", "instruction": "x"}] * 2}), encoding="utf-8")
    with pytest.raises(UsageError, match="sample ids repeat(.|\n)*2 samples"):
        readers.read("mine")


def test_an_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="no dataset named 'photo'; the nearest is 'photos'"):
        readers.read("photo")


def test_no_dataset_of_this_repository_shares_an_id_with_another() -> None:
    ids = Counter(sample.id for name in ("libero_instructions", "libero_rewordings", "photos") for sample in readers.read(name).samples)
    assert max(ids.values()) == 1
