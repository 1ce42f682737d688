"""The digest of a module covers what it imports of its own package, read from the source without running it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.errors import MissingError
from harness.sources import _collect, module_digest

ROOT = Path(__file__).resolve().parent.parent
SOURCES: Mapping[str, str] = {
    "pack/__init__.py": "",
    "pack/errors.py": "LIMIT = 1\n",
    "pack/unrelated.py": "VALUE = 1\n",
    "pack/adapters/__init__.py": "",
    "pack/adapters/toy.py": "raise RuntimeError('never run')\nfrom pack.adapters._engine import run\n",
    "pack/adapters/other.py": "VALUE = 1\n",
    "pack/adapters/_engine.py": "from pack.adapters import _deep\n\n\ndef run():\n    from pack.adapters._lazy import late\n    return late\n",
    "pack/adapters/_deep.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.errors import LIMIT\n",
    "pack/adapters/_lazy.py": "import json\nfrom pack.adapters._engine import run\nlate = 1\n",
    "single.py": "VALUE = 1\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, source in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def digest(folder: Path, module: str = "pack.adapters.toy") -> str:
    """The digest in a fresh process, which remembers nothing and finds `folder` first."""
    code = f"import sys; from harness.sources import module_digest; print(module_digest({module!r}), 'pack' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    value, imported = done.stdout.split()
    assert imported == "False"
    return value


def append(folder: Path, name: str) -> None:
    with (folder / name).open("a") as file:
        file.write("# changed\n")


@pytest.mark.parametrize("name", ["pack/adapters/toy.py", "pack/adapters/_engine.py", "pack/adapters/_deep.py", "pack/adapters/_lazy.py", "pack/errors.py"])
def test_a_change_in_any_module_it_imports_changes_the_digest(package: Path, name: str) -> None:
    before = digest(package)
    append(package, name)
    assert digest(package) != before


@pytest.mark.parametrize("name", ["pack/unrelated.py", "pack/adapters/other.py", "single.py"])
def test_a_change_elsewhere_leaves_the_digest_alone(package: Path, name: str) -> None:
    before = digest(package)
    append(package, name)
    assert digest(package) == before


def test_the_digest_does_not_depend_on_where_the_package_stands(package: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = digest(package)
    moved = tmp_path_factory.mktemp("moved") / "here"
    package.rename(moved)
    assert digest(moved) == before


def test_a_renamed_import_changes_the_digest(package: Path) -> None:
    before = digest(package)
    (package / "pack/adapters/_engine.py").rename(package / "pack/adapters/_motor.py")
    (package / "pack/adapters/toy.py").write_text(SOURCES["pack/adapters/toy.py"].replace("_engine", "_motor"))
    assert digest(package) != before


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("from pack.adapters import _engine", id="from the package"),
        pytest.param("from pack.adapters._engine import run as go", id="from the module"),
        pytest.param("from . import _engine", id="relative package"),
        pytest.param("from ._engine import run", id="relative module"),
        pytest.param("import pack.adapters._engine", id="import"),
        pytest.param("import pack.adapters._engine as e", id="import as"),
    ],
)
def test_every_form_of_import_is_followed(package: Path, statement: str) -> None:
    (package / "pack/adapters/toy.py").write_text(f"{statement}\n")
    before = digest(package)
    append(package, "pack/adapters/_deep.py")
    assert digest(package) != before


def test_a_plug_in_of_one_file_has_a_digest_of_its_own(package: Path) -> None:
    before = digest(package, "single")
    append(package, "single.py")
    assert digest(package, "single") != before


def test_a_plug_in_of_another_package_depends_on_the_harness_it_imports(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "theirs").mkdir()
    (package / "theirs/__init__.py").touch()
    (package / "theirs/adapter.py").write_text("from harness.adapters._transformer import TransformerAdapter\n")
    monkeypatch.syspath_prepend(str(package))
    assert "harness.adapters._torch" in closure("theirs.adapter")


def test_a_module_that_does_not_exist_is_told(package: Path) -> None:
    with pytest.raises(MissingError, match="no source file of module harness.nowhere"):
        module_digest("harness.nowhere")


@pytest.mark.parametrize("module", ["harness.adapters.language", "harness.adapters.openvla"])
def test_the_digest_of_a_shipped_adapter_covers_the_capture_engine(module: str) -> None:
    assert {"harness.adapters._torch", "harness.types"} <= closure(module).keys()


def closure(module: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    _collect(module, files)
    return files
