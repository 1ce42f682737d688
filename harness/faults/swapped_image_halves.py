"""The stacked picture's halves are swapped: DINOv2 sees SigLIP's channels and the other way round."""

from __future__ import annotations

from harness.faults import Patch
from harness.faults._seams import change_encoding
from harness.types import Batch

__all__ = ["swapped_image_halves"]


def swapped_image_halves(patch: Patch) -> None:
    def change(batch: Batch) -> Batch:
        pixels = batch.inputs.get("pixel_values")
        return batch if pixels is None or pixels.shape[1] != 6 else batch.with_inputs(pixel_values=pixels.roll(3, dims=1))

    change_encoding(patch, change)
