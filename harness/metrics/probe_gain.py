"""How much better a probe does on one representation than on another of the same samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from harness.metrics._probe import bootstrap_interval, held_out_hits, one_task_per_target

__all__ = ["probe_gain"]


class Gain(NamedTuple):
    """Difference of accuracies in [-1, 1] with its paired 95 % bootstrap interval over tasks."""

    value: float
    low: float
    high: float


def probe_gain(
    x: Float[np.ndarray, "n d"], control: Float[np.ndarray, "n c"], targets: Float[np.ndarray, "g e"], groups: Int[np.ndarray, "n"], *, seed: int = 0
) -> Gain:
    """Accuracy of `x` minus accuracy of `control`, same folds and rows, in [-1, 1].

    Raises UsageError for fewer than ten tasks, groups without a target, or non-finite values.
    """
    difference = held_out_hits(x, targets, groups, seed=seed).astype(np.float64) - held_out_hits(control, targets, groups, seed=seed)
    low, high = bootstrap_interval(difference, one_task_per_target(groups, targets)[0], seed=seed)
    return Gain(float(difference.mean()), low, high)
