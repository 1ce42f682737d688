"""Retrieval accuracy of a linear probe on tasks it has never seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from harness.metrics._probe import bootstrap_interval, held_out_hits, one_task_per_target

__all__ = ["linear_probe"]


class Accuracy(NamedTuple):
    """Mean over rows in [0, 1] with its 95 % bootstrap interval over tasks; `chance` is always naming the commonest target."""

    value: float
    low: float
    high: float
    chance: float


def linear_probe(
    x: Float[np.ndarray, "n d"], targets: Float[np.ndarray, "g e"], groups: Int[np.ndarray, "n"], *, permute: bool = False, seed: int = 0
) -> Accuracy:
    """Accuracy in [0, 1] of finding a held-out task's target; see `_probe.held_out_hits` for the procedure.

    Source: document 001, with tasks instead of samples held out and duplicates of a target counted as one.
    Raises UsageError for fewer than ten tasks, groups without a target, or non-finite values.
    """
    hits = held_out_hits(x, targets, groups, permute=permute, seed=seed).astype(np.float64)
    tasks, _ = one_task_per_target(groups, targets)
    low, high = bootstrap_interval(hits, tasks, seed=seed)
    return Accuracy(float(hits.mean()), low, high, float(np.bincount(tasks).max() / len(tasks)))
