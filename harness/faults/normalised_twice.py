"""Pictures are normalised by the processor and again by the model's wrapper."""

from __future__ import annotations

from harness.faults import Patch
from harness.faults._seams import change_encoding

__all__ = ["normalised_twice"]

PIXELS = ("pixel_values", "vision_x", "vision_gripper")


def normalised_twice(patch: Patch) -> None:
    change_encoding(patch, lambda batch: batch.with_inputs(**{name: (batch.inputs[name] - 0.5) / 0.5 for name in PIXELS if name in batch.inputs}))
