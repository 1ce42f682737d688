"""Document 001's accuracy is scored with ties between equal targets counted as hits, hiding its ceiling."""

from __future__ import annotations

from importlib import import_module

from harness.faults import Patch

__all__ = ["ties_are_hits"]


def ties_are_hits(patch: Patch) -> None:
    import numpy as np

    def tolerant(predictions: np.ndarray, targets: np.ndarray) -> float:
        similarity = predictions @ targets.T / np.linalg.norm(targets, axis=1)
        return float((np.diag(similarity) >= similarity.max(1) - 1e-6).mean())

    patch(import_module("harness.metrics.sample_retrieval"), "sample_retrieval", tolerant)
