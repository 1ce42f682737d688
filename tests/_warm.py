"""Importing this imports what the adapters import from other projects; a fault must find this project's own modules untouched."""

import ast
import importlib
import sys
from pathlib import Path

ADAPTERS = Path(__file__).resolve().parent.parent / "harness/adapters"

for path in sorted(ADAPTERS.glob("*.py")):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] not in ("harness", "__future__"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                getattr(module, alias.name, None)  # transformers loads a model's modules when it is named
own = [name for name in sys.modules if name.partition(".")[0] == "harness"]
assert not own, f"imported before any fault: {own}"
