"""Rows come back in the order they were batched, not in the order of the samples."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["rows_out_of_order"]


def rows_out_of_order(patch: Patch) -> None:
    import numpy as np

    from harness import pipeline

    patch(pipeline, "in_order", lambda batches, places: np.concatenate(batches))
