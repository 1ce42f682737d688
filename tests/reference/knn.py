"""Neighbourhood metrics written from their definitions: dense similarities, masks, centring matrices, sets and recursion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np


def similarities(x: np.ndarray, *, normalize: bool) -> np.ndarray:
    """All inner products, each the sum of the products of two rows' entries."""
    rows = x.astype(np.float64)
    if normalize:
        lengths = np.sqrt((rows * rows).sum(1, keepdims=True))
        rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return np.array([[float((one * other).sum()) for other in rows] for one in rows])


def neighbours(x: np.ndarray, topk: int, *, normalize: bool, groups: Sequence[object] | None = None, own: bool = False) -> list[list[int]]:
    """The nearest of every row, sorted; similarities that agree to 2^-39 of the power of two above the largest possible are one level."""
    similarity, n = similarities(x, normalize=normalize), len(x)
    lengths, found = np.sqrt(np.diag(similarity)), []
    for i in range(n):
        top = float(lengths[i] * lengths.max())
        unit = 2.0 ** (np.ceil(np.log2(top)) - 39) if top > 0 else 1.0
        others = [j for j in range(n) if (own or j != i) and (groups is None or groups[i] != groups[j])]
        found.append(sorted(others, key=lambda j: (-round(float(similarity[i, j] / unit)), j))[:topk])
    return found


def hsic(k: np.ndarray, l: np.ndarray, *, unbiased: bool) -> float:
    """Song et al. (2012), section 4: the sums over distinct indices of the three terms; or trace(K H L H) with H written out."""
    n = len(k)
    if not unbiased:
        h = np.eye(n) - 1 / n
        return float(np.trace(k @ h @ l @ h))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    ones = np.ones(n)
    return float(np.trace(k @ l) + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2)) - 2 * (ones @ k @ l @ ones) / (n - 2)) / (n * (n - 3))


def cknna(x: np.ndarray, y: np.ndarray, *, topk: int, normalize: bool = True, eps: float = 0.0, unbiased: bool = True) -> float:
    kernels = [similarities(side, normalize=normalize) for side in (x, y)]
    masks = [np.zeros((len(x), len(x))) for _ in "xy"]
    for mask, side in zip(masks, (x, y), strict=True):
        for i, nearest in enumerate(neighbours(side, topk, normalize=normalize, own=not unbiased)):
            mask[i, nearest] = 1

    def alignment(a: int, b: int) -> float:
        shared = masks[a] * masks[b]
        return hsic(shared * kernels[a], shared * kernels[b], unbiased=unbiased)

    return alignment(0, 1) / (np.sqrt(alignment(0, 0) * alignment(1, 1)) + eps)


def mutual_knn(x: np.ndarray, y: np.ndarray, *, topk: int, normalize: bool = True) -> float:
    both = zip(neighbours(x, topk, normalize=normalize), neighbours(y, topk, normalize=normalize), strict=True)
    return sum(len(set(a) & set(b)) for a, b in both) / (topk * len(x))


def cycle_knn(x: np.ndarray, y: np.ndarray, *, topk: int, normalize: bool = True) -> float:
    in_x, in_y = (neighbours(side, topk, normalize=normalize) for side in (x, y))
    return sum(any(i in in_x[j] for j in in_y[i]) for i in range(len(x))) / len(x)


def common_subsequence(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    @cache
    def length(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + length(i + 1, j + 1) if a[i] == b[j] else max(length(i + 1, j), length(i, j + 1))

    return length(0, 0)


def edits(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        return min(distance(i + 1, j) + 1, distance(i, j + 1) + 1, distance(i + 1, j + 1) + (a[i] != b[j]))

    return distance(0, 0)


def lcs_knn(x: np.ndarray, y: np.ndarray, *, topk: int, normalize: bool = True) -> float:
    both = zip(neighbours(x, topk, normalize=normalize), neighbours(y, topk, normalize=normalize), strict=True)
    return float(np.mean([common_subsequence(tuple(a), tuple(b)) for a, b in both]))


def edit_distance_knn(x: np.ndarray, y: np.ndarray, *, topk: int, normalize: bool = True) -> float:
    both = zip(neighbours(x, topk, normalize=normalize), neighbours(y, topk, normalize=normalize), strict=True)
    return 1 - float(np.mean([edits(tuple(a), tuple(b)) for a, b in both])) / topk
