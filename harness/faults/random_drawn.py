"""A hook draws a random number, as sampling tokens on the fly would."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array, Point

__all__ = ["random_drawn"]


def random_drawn(patch: Patch) -> None:
    import torch

    from harness.adapters._torch import Capture

    original = Capture._record

    def record(self: Capture, point: Point, value: Array) -> None:
        torch.rand(1)
        original(self, point, value)

    patch(Capture, "_record", record)
