"""Pictures are normalised by the processor and again by the model's wrapper."""

from __future__ import annotations

from harness.faults import Patch
from harness.faults._seams import change_encoding
from harness.types import Batch

__all__ = ["normalised_twice"]


def normalised_twice(patch: Patch) -> None:
    def change(batch: Batch) -> Batch:
        return batch.with_inputs(pixel_values=(batch.inputs["pixel_values"] - 0.5) / 0.5) if "pixel_values" in batch.inputs else batch

    change_encoding(patch, change)
