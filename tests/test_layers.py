"""Imports go strictly downward, heavy frameworks stay out of start-up, and a package's private modules stay its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A module imports strictly lower layers only; modules of one package may use that package's private modules.
LAYERS = [
    {"errors"},
    {"types", "checkpoints", "pictures", "storage", "indices", "trees"},
    {"registry", "cards", "pooling", "layouts", "shards", "environments"},
    {"sources", "converters", "metrics", "datasets", "adapters", "recorders", "policies", "entries"},
    {"store", "snapshot", "sketch", "readers", "subjects", "pipeline", "scores"},
    {"extract", "memo", "inspection", "download", "rollout", "sampling", "alignment"},
    {"findings", "faults", "contract", "engines", "noise"},
    {"doctor", "outcomes", "report"},
    {"compare"},
    {"plugin", "cli"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
KINDS = ("adapters", "contract", "converters", "datasets", "engines", "environments", "faults", "metrics", "policies", "recorders")
PLUG_INS = {kind: {path.stem for path in (ROOT / "harness" / kind).glob("*.py") if not path.stem.startswith("_")} for kind in KINDS}
MODULES = sorted(path for path in (ROOT / "harness").rglob("*.py") if path != ROOT / "harness" / "__init__.py")
HEAVY = {"torch", "jax", "flax", "tensorflow", "tensorflow_datasets", "transformers", "ray", "sklearn", "matplotlib"}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every `harness` import of a file as (dotted name, is at module level)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(ast.walk(ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", node in top) for alias in node.names]
    return found


def part(dotted: str) -> str:
    return dotted.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_strictly_lower_layers(path):
    own = path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no layer: give it one in {Path(__file__).name} and in docs/architecture.md"
    for dotted, _ in imports(path):
        other = part(dotted) if dotted.startswith("harness.") else own
        assert other == own or other not in LEVEL or LEVEL[other] < LEVEL[own], f"{own} (layer {LEVEL[own]}) imports {dotted} (layer {LEVEL[other]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_plug_ins_of_a_kind_do_not_import_each_other(path):
    own, *rest = path.relative_to(ROOT / "harness").with_suffix("").parts
    for dotted, _ in imports(path):
        names = dotted.split(".")[1:]
        if own in KINDS and rest and dotted.startswith("harness.") and names[0] == own and len(names) > 1:
            assert names[1].startswith("_") or names[1] not in PLUG_INS[own], f"{path.name} imports its sibling {dotted}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_private_module_is_used_by_its_own_package_only(path):
    own = path.relative_to(ROOT / "harness").parts[0]
    for dotted, _ in imports(path):
        names = dotted.split(".")
        private = names[0] == "harness" and any(name.startswith("_") and name != "__version__" for name in names[2:])
        assert not private or names[1] == own or own == "faults", f"{path.name} reaches into {dotted}; only faults may, to break it"


@pytest.mark.parametrize("path", [path for path in MODULES if "adapters" not in path.parts and "converters" not in path.parts], ids=lambda path: path.stem)
def test_heavy_frameworks_are_imported_where_they_are_needed(path):
    heavy = [name for name, at_top in imports(path) if at_top and name.partition(".")[0] in HEAVY]
    assert not heavy, f"{path.name} imports {heavy} at module level"


@pytest.mark.parametrize("command", [["-m", "pytest", "--collect-only", "-q", "checks/"], ["-c", "import sys; sys.argv = ['harness', '--help']; from harness.cli import main; main()"]])
def test_start_up_imports_no_framework(command, tmp_path):
    probe = tmp_path / "sitecustomize.py"
    probe.write_text(
        "import atexit, sys\n"
        f"atexit.register(lambda: print('HEAVY', sorted(m for m in {sorted(HEAVY)} if m in sys.modules), file=sys.stderr))\n"
    )
    run = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert "HEAVY []" in run.stderr, run.stdout[-2000:] + run.stderr[-2000:]


def test_pytest_stays_out_of_the_library():
    for path in MODULES:
        outside = {name.partition(".")[0] for name, _ in imports(path)}
        assert "pytest" not in outside or path.parent.name == "plugin", path
        assert "syrupy" not in outside or path.stem == "snapshot", path
        assert not outside & {"checks", "fixtures", "tests"}, path
