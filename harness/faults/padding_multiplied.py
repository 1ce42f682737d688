"""Padding is multiplied by zero instead of left out, so a NaN there reaches the row."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array

__all__ = ["padding_multiplied"]


def padding_multiplied(patch: Patch) -> None:
    from harness import pooling

    def pool(values: Array, weights: Array) -> Array:
        if hasattr(values, "double"):
            return (values.double() * weights[:, :, None]).sum(1).float()
        return (values.astype("float64") * weights[:, :, None]).sum(1).astype("float32")

    patch(pooling, "pool", pool)
