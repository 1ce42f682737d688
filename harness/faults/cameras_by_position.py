"""Cameras are taken in the order in which a sample happens to list them, not by name."""

from __future__ import annotations

import numpy as np

from harness.adapters import Adapter
from harness.faults import Patch
from harness.types import Sample

__all__ = ["cameras_by_position"]


def cameras_by_position(patch: Patch) -> None:
    def pictures(self: Adapter, sample: Sample) -> list[np.ndarray]:
        return list(sample.images.values())[: len(self.cameras)]

    patch(Adapter, "pictures", pictures)
