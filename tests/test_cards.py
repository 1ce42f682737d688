"""A card is read as written or refused with the file and the field that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.cards import DatasetCard, ModelCard, dataset_card, dataset_cards, model_card, model_cards, parse_toml
from harness.errors import DamagedError, MissingError, UnknownNameError
from harness.registry import names

ROOT = Path(__file__).resolve().parent.parent
HEAD = 'name = "toy"\nfamily = "language"\ntitle = "Toy"\nsource = "here"\nlicence = "MIT"\n'
GOOD = HEAD + "traits = ['instruction']\n[documented]\nlayers = 2\nwidths = [1, 2]\n[config]\nhidden_size = 8\n[scales.mock]\nseed = 3\n"
SHIPPED = sorted([*(ROOT / "harness/cards").glob("*/*.toml"), *(ROOT / "fixtures/cards").glob("*/*.toml")])


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without cards of its own, and a folder of cards on the search path."""
    (tmp_path / "cards/models").mkdir(parents=True)
    (tmp_path / "cards/datasets").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CARDS", str(tmp_path / "cards"))
    return tmp_path / "cards"


def write(folder: Path, content: str, *, name: str = "toy", kind: str = "models") -> Path:
    path = folder / kind / f"{name}.toml"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=[f"{path.parent.name}/{path.stem}" for path in SHIPPED])
def test_every_shipped_card_is_valid_and_named_like_its_file(path: Path) -> None:
    card = parse_toml(path, ModelCard if path.parent.name == "models" else DatasetCard, folder=path.parent)
    assert card.name == path.stem
    assert all(text.strip() for text in (card.title, card.source, card.licence))
    if isinstance(card, ModelCard):
        assert card.family in names("adapters")
        assert card.scales
    else:
        assert card.reader in names("datasets")
        assert card.path is None or (path.parent / card.path).exists()


def test_there_are_shipped_cards() -> None:
    assert {path.stem for path in SHIPPED} >= {"openvla", "libero_instructions"}


def test_a_card_is_read_as_it_is_written(elsewhere: Path) -> None:
    write(elsewhere, GOOD)
    card = model_card("toy")
    assert (card.family, card.documented, card.config) == ("language", {"layers": 2, "widths": [1, 2]}, {"hidden_size": 8})
    assert (card.scales["mock"].seed, card.scales["mock"].path) == (3, None)
    assert card.folder == (elsewhere / "models").resolve()


def test_a_card_cannot_be_changed(elsewhere: Path) -> None:
    write(elsewhere, GOOD)
    with pytest.raises(ValidationError, match="frozen"):
        model_card("toy").name = "other"


DAMAGES = {
    "a number as name": (GOOD.replace('"toy"', "5"), r"field name(.|\n)*got      5(.|\n)*valid string"),
    "a word as seed": (GOOD.replace("seed = 3", 'seed = "three"'), r"field scales\.mock\.seed(.|\n)*'three'(.|\n)*valid integer"),
    "a fraction as seed": (GOOD.replace("seed = 3", "seed = 3.5"), r"field scales\.mock\.seed(.|\n)*3\.5"),
    "a table as title": (GOOD.replace('title = "Toy"', "title = {a = 1}"), r"field title"),
    "a list as config": (GOOD.replace("[config]\nhidden_size = 8\n", "").replace("traits", "config = [1]\ntraits"), r"field config(.|\n)*valid dictionary"),
    "a table in documented": (GOOD.replace("layers = 2", "layers = {a = 1}"), r"field documented\.layers"),
    "an unknown field": (GOOD.replace("family", 'famly = "x"\nfamily'), r"field famly(.|\n)*Extra inputs(.|\n)*fields are name, family, title"),
    "an unknown field of a scale": (GOOD + "sede = 4\n", r"field scales\.mock\.sede"),
    "an unknown scale": (GOOD.replace("scales.mock", "scales.mokc"), r"field scales\.mokc(.|\n)*'mock', 'abstract'"),
    "an unknown trait": (GOOD.replace("'instruction'", "'instructions'"), r"field traits\.0(.|\n)*'instructions'"),
    "an unknown marker": (GOOD + 'marker = "slow"\n', r"field scales\.mock\.marker(.|\n)*'mock', 'real' or 'gpu'"),
    "a missing field": (GOOD.replace('licence = "MIT"\n', ""), r"field licence(.|\n)*Field required"),
    "no scales": (HEAD, r"field scales(.|\n)*Field required"),
    "two wrong fields": (GOOD.replace('"toy"', "5").replace('"Toy"', "6"), r"\(and 1 more\)"),
    "an empty file": ("", r"field name(.|\n)*and 5 more(.|\n)*Field required"),
    "another name": (GOOD.replace('"toy"', '"tyo"'), r"named like its file(.|\n)*field name(.|\n)*got      tyo(.|\n)*expected toy"),
    "an unclosed string": (GOOD.replace('"toy"', '"toy'), r"not valid TOML(.|\n)*line 1"),
    "a field given twice": (HEAD + 'name = "toy"\n', r"not valid TOML"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_card_is_refused_with_its_file_and_field(elsewhere: Path, damage: str) -> None:
    content, match = DAMAGES[damage]
    path = write(elsewhere, content)
    with pytest.raises(DamagedError, match=match) as caught:
        model_cards()
    assert str(path.resolve()) in str(caught.value)


def test_a_card_that_is_not_text_is_refused(elsewhere: Path) -> None:
    (elsewhere / "models/toy.toml").write_bytes(b"name = \xff\xfe")
    with pytest.raises(DamagedError, match=r"not valid TOML(.|\n)*toy\.toml(.|\n)*fix toy\.toml and run again"):
        model_cards()


def test_a_damaged_dataset_card_is_refused_with_its_own_fields(elsewhere: Path) -> None:
    write(elsewhere, 'name = "words"\nreadr = "instructions"\n', name="words", kind="datasets")
    with pytest.raises(DamagedError, match=r"field reader(.|\n)*fields are name, reader, title, source, licence, path, options"):
        dataset_cards()


@pytest.mark.parametrize(("card", "match"), [(model_card, r"no model named 'openvlaa'; the nearest is 'openvla'"), (dataset_card, "no dataset named")])
def test_an_unknown_card_suggests_the_nearest(elsewhere: Path, card: object, match: str) -> None:
    with pytest.raises(UnknownNameError, match=match):
        card("openvlaa")  # type: ignore[operator]


def test_a_later_folder_overrides_an_earlier_one(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = elsewhere.parent / "second"
    (second / "models").mkdir(parents=True)
    write(elsewhere, GOOD)
    write(second, GOOD.replace("Toy", "Later"))
    assert model_card("toy").title == "Toy"
    monkeypatch.setenv("HARNESS_CARDS", os.pathsep.join([str(elsewhere), str(second)]))
    assert model_card("toy").title == "Later"
    monkeypatch.setenv("HARNESS_CARDS", os.pathsep.join([str(second), str(elsewhere)]))
    assert model_card("toy").title == "Toy"


def test_the_fixtures_of_the_working_directory_come_last(elsewhere: Path) -> None:
    write(elsewhere, GOOD)
    (elsewhere.parent / "fixtures/cards/models").mkdir(parents=True)
    write(elsewhere.parent / "fixtures/cards", GOOD.replace("Toy", "Mine"))
    assert model_card("toy").title == "Mine"
    assert "openvla" in model_cards()


def test_a_named_folder_that_does_not_exist_is_told(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CARDS", str(elsewhere / "typo"))
    with pytest.raises(MissingError, match=r"HARNESS_CARDS"):
        model_cards()


@pytest.mark.parametrize("seed", ['"3"', "true", "3.0"])
def test_a_seed_of_another_toml_type_is_refused(elsewhere: Path, seed: str) -> None:
    write(elsewhere, GOOD.replace("seed = 3", f"seed = {seed}"))
    with pytest.raises(DamagedError):
        model_cards()
