"""The mean patch of the picture is joined to RoboVLMs' context vector, as document 003 supposed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.faults import Patch
from harness.types import Array, Batch, Point

__all__ = ["vision_joined"]

CONTEXT, PATCHES = Point("act_head", "input"), Point("vision", "final_norm")


def vision_joined(patch: Patch) -> None:
    import torch

    from harness.adapters.robovlms import RoboVLMs

    original = RoboVLMs.capture

    def capture(self: RoboVLMs, batch: Batch, points: Iterable[Point], keep: Callable[[Point, Array], Array] | None = None) -> dict[Point, Array]:
        values = original(self, batch, points, keep)
        if CONTEXT in values:
            context = values[CONTEXT]
            picture = original(self, batch, [PATCHES])[PATCHES].mean(1)[: len(context)]
            values[CONTEXT] = torch.cat([context, picture.reshape(len(context), *[1] * (context.ndim - 2), -1).expand(*context.shape[:-1], -1)], dim=-1)
        return values

    patch(RoboVLMs, "capture", capture)
