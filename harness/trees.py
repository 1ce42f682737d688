"""Nested values: made from names with separators, and as JSON can say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["nested", "plain"]


def nested(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Nested dictionaries of values that are named by the path to them."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *folders, last = path.split(separator)
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return tree


def plain(value: Any) -> Any:
    """The same as JSON can say it; bytes that are no UTF-8 keep their values as `\\xff`."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    return value
