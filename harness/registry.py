"""The folder is the registry: plug-ins are the modules of a package, plus the entry points of other distributions."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from harness.errors import ContractError, UnknownNameError

__all__ = ["load", "module", "names"]

KINDS = ("adapters", "contract", "converters", "datasets", "engines", "environments", "faults", "metrics", "policies", "recorders")


@lru_cache
def names(kind: str) -> tuple[str, ...]:
    """Sorted names of the plug-ins of `kind`, found without importing any of them.

    Raises ContractError when another distribution brings a plug-in under a name that is taken.
    """
    shipped, others = set(_modules(kind)), _entry_points(kind)
    if clash := sorted(shipped & others.keys()):
        raise ContractError(f"another distribution brings a {kind.removesuffix('s')} that this one has", where=others[clash[0]].value, got=clash[0], expected="a name of its own")
    return tuple(sorted({*shipped, *others}))


def load(kind: str, name: str) -> Any:
    """The one object that plug-in `name` of `kind` exports. Raises UnknownNameError, ContractError.

    The type depends on the kind: an Adapter class for adapters, a Reader class for datasets, a function for everything else.
    """
    where = module(kind, name)
    if name in _entry_points(kind):
        return _entry_points(kind)[name].load()
    loaded = import_module(where)
    if len(exported := getattr(loaded, "__all__", ())) != 1:
        raise ContractError("a plug-in module exports exactly one name", where=loaded.__file__, got=list(exported), expected='__all__ = ["…"]')
    return getattr(loaded, exported[0])


def module(kind: str, name: str) -> str:
    """The dotted name of the module that defines a plug-in; nothing is imported. Raises UnknownNameError."""
    if name not in names(kind):
        raise UnknownNameError(kind.removesuffix("s"), name, names(kind))
    return entry.module if (entry := _entry_points(kind).get(name)) else f"harness.{kind}.{name}"


@lru_cache
def _modules(kind: str) -> tuple[str, ...]:
    if kind not in KINDS:
        raise UnknownNameError("kind of plug-in", kind, KINDS)
    folder = Path(__file__).parent / kind
    return tuple(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


@lru_cache
def _entry_points(kind: str) -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=f"harness.{kind}")}
