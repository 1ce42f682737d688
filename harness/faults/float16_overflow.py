"""Activations are pooled in float16, where massive ones are infinite."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["float16_overflow"]


def float16_overflow(patch: Patch) -> None:
    from harness import pooling

    original = pooling.pool
    patch(pooling, "pool", lambda values, weights: original(values.half() if hasattr(values, "half") else values.astype("float16"), weights))
