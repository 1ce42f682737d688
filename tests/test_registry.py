"""A new file in the folder, or an entry point of another distribution, is all that a plug-in needs."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import registry
from harness.errors import ContractError, UnknownNameError
from harness.registry import KINDS, load, module, names

PACKAGE = Path(registry.__file__).parent
HEAVY = ("torch", "transformers", "jax", "tensorflow", "ray", "sklearn", "scipy")


def python(code: str, *path: Path) -> str:
    """What `code` prints in a fresh interpreter that finds modules in `path` first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=path[0], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_every_public_module_of_the_folder_is_named_and_no_private_one(kind: str) -> None:
    public = {path.stem for path in (PACKAGE / kind).glob("*.py") if not path.name.startswith("_")}
    assert public <= set(names(kind))
    assert not [name for name in names(kind) if name.startswith("_")]
    assert list(names(kind)) == sorted(names(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_plug_in_exports_one_name(kind: str) -> None:
    for name in names(kind):
        assert callable(load(kind, name))


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_found_without_importing_anything_heavy(kind: str) -> None:
    code = f"import sys, harness.registry as r; print(len(r.names({kind!r}))); print([h for h in {HEAVY!r} if h in sys.modules])"
    count, imported = python(code, PACKAGE.parent).splitlines()
    assert int(count) == len(names(kind))
    assert imported == "[]"


def test_loading_an_adapter_does_import_torch() -> None:
    assert python("import sys, harness.registry as r; r.load('adapters', 'language'); print('torch' in sys.modules)", PACKAGE.parent) == "True"


def test_the_module_of_a_plug_in_is_known_without_importing_it() -> None:
    assert module("metrics", "summary") == "harness.metrics.summary"
    printed = python("import sys, harness.registry as r; print(r.module('adapters', 'openvla')); print('harness.adapters' in sys.modules)", PACKAGE.parent)
    assert printed.split() == ["harness.adapters.openvla", "False"]


@pytest.mark.parametrize(
    ("kind", "name", "match"),
    [
        ("adapters", "opnvla", r"no adapter named 'opnvla'; the nearest is 'openvla'"),
        ("metrics", "linear_prob", r"no metric named 'linear_prob'; the nearest is 'linear_probe'"),
        ("metrics", "_ridge", r"no metric named '_ridge'"),
        ("adapter", "openvla", r"no kind of plug-in named 'adapter'; the nearest is 'adapters'"),
    ],
)
def test_an_unknown_plug_in_suggests_the_nearest(kind: str, name: str, match: str) -> None:
    with pytest.raises(UnknownNameError, match=match):
        load(kind, name)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, to which files may be added."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_one_new_file_is_a_new_plug_in(copied: Path) -> None:
    (copied / "harness/metrics/total.py").write_text('__all__ = ["total"]\n\n\ndef total(x):\n    return x.sum()\n')
    code = "import numpy as np, harness.registry as r; print('total' in r.names('metrics'), r.load('metrics', 'total')(np.ones(3)))"
    assert python(code, copied) == "True 3.0"
    assert "total" not in names("metrics")


@pytest.mark.parametrize(
    ("source", "got"),
    [
        ('__all__ = ["one", "two"]\none = two = len\n', r"\['one', 'two'\]"),
        ("one = len\n", r"\[\]"),
        ("__all__ = []\n", r"\[\]"),
    ],
    ids=["two names", "no __all__", "an empty __all__"],
)
def test_a_module_that_does_not_export_one_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, got: str) -> None:
    (tmp_path / "wrong_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "module", lambda kind, name: name)
    importlib.invalidate_caches()
    try:
        with pytest.raises(ContractError, match=rf"exports exactly one name(.|\n)*wrong_plugin\.py(.|\n)*{got}"):
            load("metrics", "wrong_plugin")
    finally:
        sys.modules.pop("wrong_plugin", None)


def distribution(folder: Path, name: str, entry_points: str, **modules: str) -> Path:
    """An installed distribution as pip leaves it: modules beside a dist-info with entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for path, source in modules.items():
        file = folder / f"{path.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    entry_points = "[harness.adapters]\nmyvla = myvla_pack.adapter:MyVLA\n\n[harness.metrics]\nmy_metric = myvla_pack.metric:my_metric\n"
    return distribution(
        tmp_path,
        "myvla_pack",
        entry_points,
        myvla_pack__adapter="import myvla_pack.marker\n\n\nclass MyVLA:\n    pass\n",
        myvla_pack__metric="def my_metric(x):\n    return float(x.max())\n",
        myvla_pack__marker="",
    )


@pytest.mark.parametrize(("kind", "name", "where"), [("adapters", "myvla", "myvla_pack.adapter"), ("metrics", "my_metric", "myvla_pack.metric")])
def test_another_distribution_adds_a_plug_in_by_an_entry_point(elsewhere: Path, kind: str, name: str, where: str) -> None:
    code = f"""
import sys, harness.registry as r
print({name!r} in r.names({kind!r}), r.module({kind!r}, {name!r}), 'myvla_pack' in sys.modules)
loaded = r.load({kind!r}, {name!r})
print(loaded.__name__, loaded.__module__)
"""
    listed, loaded = python(code, elsewhere, PACKAGE.parent).splitlines()
    assert listed == f"True {where} False"
    assert loaded.split()[1] == where
    assert name not in names(kind)


def test_the_metric_of_another_distribution_computes(elsewhere: Path) -> None:
    code = "import numpy as np, harness.registry as r; print(r.load('metrics', 'my_metric')(np.array([1, 4])), 'summary' in r.names('metrics'))"
    assert python(code, elsewhere, PACKAGE.parent) == "4.0 True"


def test_an_entry_point_cannot_replace_a_shipped_plug_in_in_silence(tmp_path: Path) -> None:
    folder = distribution(tmp_path, "rival", "[harness.metrics]\nsummary = rival:summary\n", rival="def summary(x):\n    return {}\n")
    code = """
import harness.registry as r
from harness.errors import HarnessError
try:
    print(r.load('metrics', 'summary').__module__)
except HarnessError:
    print('refused')
"""
    assert python(code, folder, PACKAGE.parent) in ("refused", "harness.metrics.summary")
