"""The accuracy of document 001 as it is written there, kept to show what it cannot measure."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError

__all__ = ["sample_retrieval"]


def sample_retrieval(predictions: Float[np.ndarray, "n e"], targets: Float[np.ndarray, "n e"]) -> float:
    """Share in [0, 1] of rows whose most similar target (cosine) stands in the same row; ties go to the first.

    Samples of one task share one target, so perfect predictions of g tasks score at most g / n (document 001, phase 5).
    Raises UsageError when the shapes differ or a value is not finite.
    """
    if predictions.shape != targets.shape or not (np.isfinite(predictions).all() and np.isfinite(targets).all()):
        raise UsageError("predictions and targets do not fit", got=f"{predictions.shape} and {targets.shape}", expected="two finite arrays of one shape")
    unit = [rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-8) for rows in (predictions, targets)]
    similarity = np.round(unit[0] @ unit[1].T, 12)  # equal targets tie exactly, whatever the summation order
    return float((similarity.argmax(1) == np.arange(len(targets))).mean())
