"""Held-out retrieval by ridge regression: the one procedure behind every probe metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits

from harness.errors import UsageError
from harness.metrics._ridge import ridge_predictions

__all__ = ["PENALTIES", "bootstrap_interval", "held_out_hits", "one_task_per_target"]

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FOLDS, INNER_FOLDS = 5, 4


def held_out_hits(
    x: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "g e"],
    groups: Int[np.ndarray, "n"],
    *,
    permute: bool = False,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> Bool[np.ndarray, "n"]:
    """Whether each row finds its own task among all tasks, predicted by a probe that never saw a row of that task.

    Row i belongs to task `groups[i]`, whose target is `targets[groups[i]]`; tasks with identical targets are one task, so
    that a perfect predictor scores 1 and nothing leaks through a twin. Tasks are split into five folds; the penalty of a
    fold is the one with most hits over four inner folds of its training tasks. The prediction counts as a hit when its most
    similar target (cosine) is the task's own.
    `permute` shuffles the targets among tasks first: the control, at chance for anything but leakage.

    Raises UsageError for fewer than ten tasks, groups without a target, or non-finite features or targets.
    """
    _check(x, targets, groups)
    rng = np.random.default_rng(seed)
    if permute:
        targets = targets[rng.permutation(len(targets))]
    groups, targets = one_task_per_target(groups, targets)
    directions = targets / np.maximum(np.linalg.norm(targets, axis=1, keepdims=True), np.finfo(np.float64).tiny)

    def hits(fit: np.ndarray, test: np.ndarray, among: Sequence[float]) -> list[np.ndarray]:
        train, held_out = np.isin(groups, fit), np.isin(groups, test)
        predictions = ridge_predictions(x[train], targets[groups[train]], x[held_out], among)
        return [np.argmax(predicted @ directions.T, axis=1) == groups[held_out] for predicted in predictions]

    found = np.zeros(len(x), bool)
    with threadpool_limits(1):  # matrices of a hundred rows: more threads only wait for each other
        for test in np.array_split(rng.permutation(np.unique(groups)), FOLDS):
            rest = np.setdiff1d(groups, test)
            inner = np.array_split(rng.permutation(rest), INNER_FOLDS)
            scores = sum(np.array([row.sum() for row in hits(np.setdiff1d(rest, check), check, penalties)]) for check in inner)
            (found[np.isin(groups, test)],) = hits(rest, test, [penalties[int(np.argmax(scores))]])
    return found


def one_task_per_target(groups: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same rows with tasks of identical targets merged: group of each row, one distinct target per group."""
    _, first, index = np.unique(targets, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # tasks keep the order of their first appearance, whatever their targets' values
    return np.argsort(order)[index.ravel()][groups], targets[first[order]]


def bootstrap_interval(
    values: Float[np.ndarray, "n"], groups: Int[np.ndarray, "n"], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` under resampling of whole groups (Efron and Tibshirani, 1993, ch. 13)."""
    members = np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(members, values), np.bincount(members)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(resamples, len(counts)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _check(x: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> None:
    for name, rows in (("features", x), ("targets", targets)):
        if not np.isfinite(rows).all():
            raise UsageError(f"the {name} hold NaN or infinity", got=f"{(~np.isfinite(rows).all(1)).sum()} of {len(rows)} rows", expected="finite rows")
    if len(groups) != len(x) or groups.min(initial=0) < 0 or groups.max(initial=0) >= len(targets):
        raise UsageError("groups do not fit the rows or the targets", got=f"{len(groups)} groups for {len(x)} rows, {len(targets)} targets")
    if (tasks := len(np.unique(one_task_per_target(groups, targets)[0]))) < 2 * FOLDS:
        raise UsageError("too few tasks to hold out", got=f"{tasks} tasks", expected=f"at least {2 * FOLDS} tasks with different targets")
