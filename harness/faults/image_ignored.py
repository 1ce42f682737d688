"""The picture never reaches the model: every one it is given is black."""

from __future__ import annotations

import numpy as np

from harness.adapters import Adapter
from harness.faults import Patch
from harness.types import Sample

__all__ = ["image_ignored"]


def image_ignored(patch: Patch) -> None:
    original = Adapter.pictures

    def pictures(self: Adapter, sample: Sample) -> list[np.ndarray]:
        return [np.zeros_like(picture) for picture in original(self, sample)]

    patch(Adapter, "pictures", pictures)
