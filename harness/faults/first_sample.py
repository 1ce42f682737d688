"""`output[0]` is taken of a block that returns a bare tensor: every row becomes sample 0."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array, Point

__all__ = ["first_sample"]


def first_sample(patch: Patch) -> None:
    from harness.adapters import _torch

    original = _torch.select

    def select(point: Point, output: object, element: int) -> Array:
        value = original(point, output, element)
        return value[:1].expand_as(value)

    patch(_torch, "select", select)
