"""Faults: realistic extraction mistakes, one module each, injected on purpose to prove that findings can fail.

A fault is a function of one argument, `patch(target, attribute, replacement)`. Its docstring's first line says the mistake.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from harness import registry
from harness.sources import module_digest

__all__ = ["Patch", "identity", "injected", "summaries"]

Patch = Callable[[object, str, object], None]


@contextmanager
def injected(name: str) -> Iterator[None]:
    """Within: the mistake is made everywhere; afterwards everything is as before. Raises UnknownNameError."""
    fault = registry.load("faults", name)
    with ExitStack() as stack:

        def patch(target: object, attribute: str, replacement: object) -> None:
            stack.enter_context(mock.patch.object(target, attribute, replacement))

        fault(patch)
        yield


def identity(name: str | None) -> str | None:
    """What a store key says of a fault: its name and a digest of its code; None without one."""
    return None if name is None else f"{name}-{module_digest(registry.module('faults', name))[:12]}"


def summaries() -> dict[str, str]:
    """Each fault's name and what is done wrong, read from the sources without importing them."""
    folder = Path(__file__).parent
    found = {}
    for name in registry.names("faults"):
        path = folder / f"{name}.py"
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
        found[name] = (text or registry.module("faults", name)).splitlines()[0]
    return found
