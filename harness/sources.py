"""Digests of source code: a module together with everything of its own package that it imports, found without running it."""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from harness.checkpoints import canonical_digest, file_digest

__all__ = ["module_digest"]


@lru_cache
def module_digest(module: str) -> str:
    """One digest of a module's file and of every module of its top-level package that it imports, directly or not."""
    files = _closure(module, {})
    return canonical_digest(sorted((name, file_digest(path)) for name, path in files.items()))


def _closure(module: str, seen: dict[str, Path]) -> dict[str, Path]:
    path = _file(module)
    if path is None or module in seen:
        return seen
    seen[module] = path
    package = module.partition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == package:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                _closure(name, seen)
    return seen


def _file(module: str) -> Path | None:
    """The file of a module, by its path alone: asking for the spec of a submodule would import its parents."""
    package, *rest = module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(next(iter(spec.submodule_search_locations)), *rest)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
