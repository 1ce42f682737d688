"""The picture never reaches the model: pixel values are zero."""

from __future__ import annotations

from harness.faults import Patch
from harness.faults._seams import change_encoding
from harness.types import Batch

__all__ = ["image_ignored"]


def image_ignored(patch: Patch) -> None:
    def change(batch: Batch) -> Batch:
        return batch.with_inputs(pixel_values=batch.inputs["pixel_values"] * 0) if "pixel_values" in batch.inputs else batch

    change_encoding(patch, change)
