"""Held-out retrieval written out: one fold, one penalty, one row and one target at a time, ridge by its normal equations."""

from __future__ import annotations

import math

import numpy as np

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def ridge_row(x: np.ndarray, y: np.ndarray, row: np.ndarray, penalty: float) -> np.ndarray:
    """The prediction for one row; a standardised column has n as its squared norm, so d is the mean Gram eigenvalue."""
    centre = y.mean(0)
    columns = [c for c in range(x.shape[1]) if len(set(x[:, c].tolist())) > 1]
    if not columns:
        return centre
    z = np.stack([(x[:, c] - x[:, c].mean()) / math.sqrt(((x[:, c] - x[:, c].mean()) ** 2).mean()) for c in columns], 1)
    new = np.array([(row[c] - x[:, c].mean()) / math.sqrt(((x[:, c] - x[:, c].mean()) ** 2).mean()) for c in columns])
    normal = z.T @ z + penalty * len(columns) * np.eye(len(columns))
    return new @ np.linalg.solve(normal, z.T @ (y - centre)) + centre


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def fold_hits(x: np.ndarray, targets: np.ndarray, groups: np.ndarray, fit: list[int], test: list[int], penalty: float) -> dict[int, bool]:
    train = [row for row in range(len(x)) if groups[row] in fit]
    wanted = np.stack([targets[groups[row]] for row in train])
    found = {}
    for row in (row for row in range(len(x)) if groups[row] in test):
        predicted = ridge_row(x[train], wanted, x[row], penalty)
        best = max(range(len(targets)), key=lambda target: cosine(predicted, targets[target]))
        found[row] = targets[best].tolist() == targets[groups[row]].tolist()
    return found


def chunks(items: list[int], count: int) -> list[list[int]]:
    short, longer = divmod(len(items), count)
    starts = [number * short + min(number, longer) for number in range(count + 1)]
    return [items[start:stop] for start, stop in zip(starts, starts[1:], strict=False)]


def held_out_hits(x: np.ndarray, targets: np.ndarray, groups: np.ndarray, *, permute: bool = False, seed: int = 0) -> list[bool]:
    x, rng = x.astype(np.float64), np.random.default_rng(seed)
    if permute:
        targets = targets[rng.permutation(len(targets))]
    tasks, hits = sorted(set(groups.tolist())), {}
    for test in chunks(rng.permutation(tasks).tolist(), 5):
        rest = [task for task in tasks if task not in test]
        inner = chunks(rng.permutation(rest).tolist(), 4)
        scores = [
            sum(sum(fold_hits(x, targets, groups, [task for task in rest if task not in check], check, penalty).values()) for check in inner)
            for penalty in PENALTIES
        ]
        hits |= fold_hits(x, targets, groups, rest, test, PENALTIES[scores.index(max(scores))])
    return [hits[row] for row in range(len(x))]


def interval(values: list[float], groups: np.ndarray, *, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of the mean over resampled tasks."""
    tasks = sorted(set(groups.tolist()))
    members = [[value for value, group in zip(values, groups, strict=True) if group == task] for task in tasks]
    means = []
    for draw in np.random.default_rng(seed).integers(len(tasks), size=(resamples, len(tasks))):
        drawn = [value for task in draw for value in members[task]]
        means.append(sum(drawn) / len(drawn))
    means.sort()

    def quantile(q: float) -> float:
        place = q * (len(means) - 1)
        below = math.floor(place)
        return means[below] + (place - below) * (means[min(below + 1, len(means) - 1)] - means[below])

    return quantile(0.025), quantile(0.975)


def leaky_accuracy(x: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> float:
    """The mistake the metric must not make: every other row of every task is trained on, the rest is tested."""
    train = [row for row in range(len(x)) if row % 2 == 0]
    wanted = np.stack([targets[groups[row]] for row in train])
    tested = [row for row in range(len(x)) if row % 2 == 1]
    right = 0
    for row in tested:
        predicted = ridge_row(x[train].astype(np.float64), wanted, x[row], 1e-5)
        best = max(range(len(targets)), key=lambda target: cosine(predicted, targets[target]))
        right += targets[best].tolist() == targets[groups[row]].tolist()
    return right / len(tested)
