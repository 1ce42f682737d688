"""A hook scales the hidden states it was only meant to read."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array, Point

__all__ = ["hook_edits_output"]


def hook_edits_output(patch: Patch) -> None:
    import torch

    from harness.adapters._torch import Capture

    original = Capture._record

    def record(self: Capture, point: Point, value: Array) -> None:
        original(self, point, value)
        with torch.no_grad():
            value.mul_(1.001)

    patch(Capture, "_record", record)
