"""Digests of source code: a module together with everything of its own package that it imports, found without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from harness.checkpoints import canonical_digest, file_digest
from harness.errors import MissingError

__all__ = ["module_digest", "module_files"]


@lru_cache
def module_digest(module: str) -> str:
    """One digest of the files that `module_files` finds; raises the same."""
    return canonical_digest(sorted((name, file_digest(path)) for name, path in module_files(module).items()))


@lru_cache
def module_files(module: str) -> Mapping[str, Path]:
    """The file of a module and of every module of its own package, or of this one, that it imports, directly or not, by name.

    Raises MissingError when there is no such module.
    """
    files: dict[str, Path] = {}
    _collect(module, files)
    if module not in files:
        raise MissingError(f"there is no source file of module {module}", expected="an importable Python module")
    return files


def _collect(module: str, files: dict[str, Path]) -> None:
    path = _file(module)
    if path is None or module in files:
        return
    files[module] = path
    followed = {module.partition(".")[0], "harness"}
    for name in _imports(module, path):
        if name.partition(".")[0] in followed:
            _collect(name, files)


@lru_cache(maxsize=None)
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """Every name that may be a module imported by `path`, relative imports made absolute. A file is parsed once."""
    return tuple(_named(module, path))


def _named(module: str, path: Path) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from _parents(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _parents(module: str) -> Iterator[str]:
    """The module and every package above it, each of which runs on import."""
    parts = module.split(".")
    yield from (".".join(parts[: length + 1]) for length in range(len(parts)))


def _file(module: str) -> Path | None:
    """The file of a module, by its path alone: asking for the spec of a submodule would import its parents."""
    package, *rest = module.split(".")
    spec = find_spec(package) if package else None
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if not rest and spec.has_location and spec.origin else None
    for root in spec.submodule_search_locations:
        base = Path(root, *rest)
        for path in (base / "__init__.py", base.with_suffix(".py") if rest else base / "__init__.py"):
            if path.is_file():
                return path
    return None
