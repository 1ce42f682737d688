"""Keys in dot notation, and what lies under them as text, as a row of numbers, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["flat", "lookup", "text"]


def lookup(tree: Any, key: str) -> Any:
    """What lies under `key` (`observation.image`) in nested mappings. Raises KeyError."""
    for part in key.split("."):
        tree = tree[part]
    return tree


def text(value: Any) -> str:
    """Text given as bytes in UTF-8, as a string, or as an array of one of these. Raises ValueError with the reason."""
    if isinstance(value, np.ndarray | list | tuple):
        if np.size(value) != 1:
            raise ValueError(f"{np.size(value)} texts where one belongs")
        value = np.asarray(value, dtype=object).item()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"text that is not UTF-8: byte {value[error.start]:#04x} at {error.start}") from error
    if isinstance(value, str):
        return value
    raise ValueError(f"{type(value).__name__} where text belongs")


def flat(value: Any) -> np.ndarray:
    """Float32 (n,): a number, an array, or nested mappings of these in the order of their keys. Raises ValueError for text."""
    if isinstance(value, Mapping):
        parts = [flat(value[key]) for key in sorted(value)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{array.dtype} where numbers belong")
    return array.astype(np.float32).ravel()
