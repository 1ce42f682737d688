"""The doctor names every part of the machine once, and a command for each that is missing or wrong."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from harness import doctor, subjects
from harness.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HARNESS_CARDS", raising=False)


def rows() -> dict[str, doctor.Row]:
    return {row.part: row for row in doctor.examine()}


def test_every_part_is_named_once_in_the_same_order() -> None:
    names = [row.part for row in doctor.examine()]
    assert len(set(names)) == len(names)
    assert names == [row.part for row in doctor.examine()]
    assert names[0] == "python"
    assert {"torch", "transformers", *doctor.EXTRAS, *subjects.subject_ids()} <= set(names)


def test_what_is_ready_needs_no_command_and_everything_else_has_one() -> None:
    for row in doctor.examine():
        assert row.state in ("ready", "missing", "wrong")
        assert (row.next is None) == (row.state == "ready"), row


def test_the_state_of_a_subject_is_whether_it_can_be_loaded() -> None:
    found = rows()
    for name in subjects.subject_ids():
        assert (found[name].state, found[name].next) == (("missing", subjects.missing(name)) if subjects.missing(name) else ("ready", None))
        assert found[name].detail == f"marker {subjects.marker(name)}"


@pytest.mark.parametrize("there", [True, False])
def test_an_extra_is_ready_or_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: ModuleSpec(name, None) if there else None)
    for module, extra in doctor.EXTRAS.items():
        row = rows()[module]
        assert (row.state, row.detail) == ("ready" if there else "missing", f"extra {extra}")
        assert row.next == (None if there else f"pip install -c constraints.txt -e '.[{extra}]'")


def test_the_extras_are_those_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.EXTRAS.values()) == set(project["optional-dependencies"]) - {"dev"}


def test_a_package_that_replaces_torch_is_wrong_and_its_absence_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    find = doctor.importlib.util.find_spec
    for banned in doctor.BANNED:
        with monkeypatch.context() as patch:
            patch.setattr(doctor.importlib.util, "find_spec", lambda name, there=banned: ModuleSpec(name, None) if name == there else None if name in doctor.BANNED else find(name))
            found = rows()
        assert (found[banned].state, found[banned].next) == ("wrong", f"pip uninstall {banned}")
        assert not (set(doctor.BANNED) - {banned}) & set(found)


@pytest.mark.parametrize("count", [0, 2])
def test_each_accelerator_is_a_part(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    found = {name: (row.state, row.detail) for name, row in rows().items() if name.startswith("cuda")}
    assert found == ({"cuda:0": ("ready", "GPU 0"), "cuda:1": ("ready", "GPU 1")} if count else {"cuda": ("missing", "no CUDA device")})


def test_a_subject_whose_package_has_another_version_is_wrong_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> str | None:
        if name == "minilm:real":
            raise UsageError("package has another version than its card", next="pip install it")
        return None

    monkeypatch.setattr(subjects, "missing", refused)
    found = rows()
    assert found["minilm:real"] == doctor.Row("minilm:real", "wrong", "package has another version than its card", "pip install it")
    assert found["toy_lm:mock"].state == "ready"
