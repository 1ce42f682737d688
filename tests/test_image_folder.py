"""The CKNNA folder of document 004: rows in order, empty instructions kept, and what disagrees is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness import readers
from harness.datasets.image_folder import ImageFolder
from harness.errors import DamagedError, MissingError
from harness.types import Broken, Sample

TEXTS = ["put the carrot on the plate", "", "open the drawer", ""]


def folder(path: Path, **changed: Any) -> Path:
    """Four rows of two demonstrations, as the pipeline of document 004 writes them."""
    (path / "images").mkdir(parents=True)
    for row in range(4):
        Image.fromarray(np.full((5, 6, 3), 50 * row, np.uint8)).save(path / "images" / f"{row:06d}.png")
    metadata = {"num_samples": 4, "state_dim_raw": 8, "task_descriptions": TEXTS, "episode_indices": [7, 7, 9, 9], "frame_indices": [0, 5, 2, 3], **changed}
    (path / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    torch.save(torch.arange(28.0).reshape(4, 7), path / "feats_B.pt")
    return path


def test_rows_come_in_order_with_their_states_and_empty_texts(tmp_path: Path) -> None:
    samples = list(ImageFolder(folder(tmp_path)))
    assert [(sample.id, sample.instruction, sample.episode, sample.group, sample.step) for sample in samples] == [
        ("000000", TEXTS[0], "7", "7", 0),
        ("000001", "", "7", "7", 5),
        ("000002", TEXTS[2], "9", "9", 2),
        ("000003", "", "9", "9", 3),
    ]
    for row, sample in enumerate(samples):
        assert sample.state.dtype == np.float32 and sample.state.tolist() == list(range(7 * row, 7 * row + 7))
        assert np.array_equal(sample.images["primary"], np.full((5, 6, 3), 50 * row))


def test_a_range_gives_what_the_whole_gives_also_after_pickling(tmp_path: Path) -> None:
    reader = pickle.loads(pickle.dumps(ImageFolder(folder(tmp_path))))
    assert len(reader) == 4 and reader.shard == 1024
    assert [sample.id for sample in reader.read(1, 3)] == ["000001", "000002"]
    assert [sample.id for sample in reader.read(3, 99)] == ["000003"]
    sample = pickle.loads(pickle.dumps(next(reader.read(2, 3))))
    assert sample.images["primary"].max() == 100


def test_states_may_be_left_out(tmp_path: Path) -> None:
    (folder(tmp_path) / "feats_B.pt").unlink()
    assert all(sample.state is None for sample in ImageFolder(tmp_path, state=None))
    with pytest.raises(MissingError, match=r"has no feats_B\.pt"):
        ImageFolder(tmp_path)


def test_the_keys_are_listed_without_decoding(tmp_path: Path) -> None:
    assert ImageFolder(folder(tmp_path)).keys() == {
        "images": "uint8 (5, 6, 3)",
        "task_descriptions": "text",
        "episode_indices": "int",
        "frame_indices": "int",
        "feats_B.pt": "float32 (7,)",
    }


def test_a_missing_picture_and_a_state_that_is_no_number_are_named_and_reading_goes_on(tmp_path: Path) -> None:
    (folder(tmp_path) / "images/000001.png").unlink()
    states = torch.zeros(4, 7)
    states[2, 3], states[3, 0] = torch.nan, torch.inf
    torch.save(states, tmp_path / "feats_B.pt")
    found = list(ImageFolder(tmp_path))
    assert [type(record) for record in found] == [Sample, Broken, Broken, Broken]
    assert [record.id for record in found] == ["000000", "000001", "000002", "000003"]
    assert "no picture 000001.png" in found[1].reason and "not finite" in found[2].reason and "inf" in found[3].reason


def test_a_description_that_is_no_text_is_named(tmp_path: Path) -> None:
    found = list(ImageFolder(folder(tmp_path, task_descriptions=["a", None, "b", "c"])))
    assert [record.id for record in found if isinstance(record, Broken)] == ["000001"]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff\xd8\xff" + data],
    ids=["cut short", "empty", "no PNG"],
)
def test_a_corrupt_picture_says_so_when_it_is_looked_at(tmp_path: Path, damage: Any) -> None:
    path = folder(tmp_path) / "images/000001.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    samples = list(ImageFolder(tmp_path))
    assert samples[0].images["primary"].shape == (5, 6, 3)
    with pytest.raises(DamagedError, match=r"a picture cannot be decoded(.|\n)*000001\.png"):
        samples[1].images["primary"]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"task_descriptions": TEXTS[:3]}, "disagree(.|\n)*task_descriptions 3, episode_indices 4, frame_indices 4, num_samples 4"),
        ({"frame_indices": [0]}, "frame_indices 1"),
        ({"num_samples": 5}, "num_samples 5"),
        ({"episode_indices": None}, "not readable"),
        ({"episode_indices": ["a", "b", "c", "d"]}, "not readable"),
    ],
)
def test_lists_that_disagree_are_refused(tmp_path: Path, changed: dict[str, Any], error: str) -> None:
    with pytest.raises(DamagedError, match=error):
        ImageFolder(folder(tmp_path, **changed))


@pytest.mark.parametrize(
    "content",
    ["", '{"num_samples": 4, "task_descr', "[]", '{"num_samples": 4}', "7"],
    ids=["empty", "cut short", "a list", "no lists", "a number"],
)
def test_a_damaged_metadata_file_is_refused(tmp_path: Path, content: str) -> None:
    (folder(tmp_path) / "metadata.json").write_text(content, encoding="utf-8")
    with pytest.raises(DamagedError, match=r"a metadata file is not readable(.|\n)*metadata\.json(.|\n)*task_descriptions"):
        ImageFolder(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        (torch.zeros(3, 7), r"got +\(3, 7\)\n +expected +\(4, width\)"),
        (torch.zeros(4), "does not fit"),
        ({"feats": torch.zeros(4, 7)}, "got +dict"),
        (Evil(), "not readable"),
    ],
    ids=["rows", "one axis", "a dictionary", "code"],
)
def test_states_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: object, error: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(stored, folder(tmp_path / "data") / "feats_B.pt")
    reader = ImageFolder(tmp_path / "data")
    with pytest.raises(DamagedError, match=error):
        list(reader)
    assert not Path("touched").exists()


def test_states_cut_short_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path) / "feats_B.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DamagedError, match="a tensor of states is not readable"):
        list(ImageFolder(tmp_path))


@pytest.mark.parametrize("changed", ["metadata.json", "feats_B.pt", "images/000002.png"])
def test_identity_follows_every_file_that_is_read(tmp_path: Path, changed: str) -> None:
    before = ImageFolder(folder(tmp_path)).identity()
    path = tmp_path / changed
    path.write_bytes(path.read_bytes() + b" ")
    assert ImageFolder(tmp_path).identity() != before
    assert ImageFolder(tmp_path).identity() == ImageFolder(tmp_path).identity()


def test_a_folder_whose_pictures_are_missing_has_an_identity_too(tmp_path: Path) -> None:
    before = ImageFolder(folder(tmp_path)).identity()
    (tmp_path / "images/000002.png").unlink()
    assert ["images/000002.png", 0, None] in ImageFolder(tmp_path).identity() and ImageFolder(tmp_path).identity() != before


def test_the_format_is_recognised_by_its_files(tmp_path: Path) -> None:
    assert not ImageFolder.recognises(tmp_path) and not ImageFolder.recognises("name")
    assert isinstance(readers.stream(str(folder(tmp_path / "x"))).reader, ImageFolder)
