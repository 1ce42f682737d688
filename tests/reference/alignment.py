"""Alignment and spectrum metrics written from their definitions: dense matrices, loops, and scipy's own routines."""

from __future__ import annotations

import math
import statistics

import numpy as np
import scipy.linalg
import scipy.spatial
import scipy.stats
from scipy.spatial.distance import cdist, pdist


def kernel_matrix(x: np.ndarray, kernel: str, sigma: float | None) -> np.ndarray:
    if kernel == "linear":
        return x @ x.T
    width = np.median(pdist(x)) if sigma is None else sigma
    return np.exp(-cdist(x, x, "sqeuclidean") / (2 * width**2))


def debiased_hsic(k: np.ndarray, l: np.ndarray) -> float:
    """The inner product of the two U-centred matrices (Székely and Rizzo, 2014), which Song's estimator is as well."""
    n, found = len(k), 0.0
    centred = []
    for matrix in (k, l):
        off = matrix - np.diag(np.diag(matrix))
        rows = off.sum(1)
        centred.append(off - rows[:, None] / (n - 2) - rows[None, :] / (n - 2) + off.sum() / ((n - 1) * (n - 2)))
    for i in range(n):
        for j in range(n):
            if i != j:
                found += centred[0][i, j] * centred[1][i, j]
    return found / (n * (n - 3))


def biased_hsic(k: np.ndarray, l: np.ndarray) -> float:
    centring = np.eye(len(k)) - np.ones((len(k), len(k))) / len(k)
    return float(np.trace(k @ centring @ l @ centring))


def cka(x: np.ndarray, y: np.ndarray, *, kernel: str = "linear", debiased: bool = True, sigma: float | None = 1.0, eps: float = 0.0) -> float:
    k, l = kernel_matrix(x, kernel, sigma), kernel_matrix(y, kernel, sigma)
    hsic = debiased_hsic if debiased else biased_hsic
    return hsic(k, l) / (math.sqrt(hsic(k, k) * hsic(l, l)) + eps)


def svcca(x: np.ndarray, y: np.ndarray, *, dim: int, standardise: bool = True) -> float:
    """Canonical correlations as the roots of the eigenvalues of inv(Sxx) Sxy inv(Syy) Syx, of the leading principal components."""
    kept = []
    for side in (x, y):
        centred = side - side.mean(0)
        if standardise:
            deviation = side.std(0)
            centred = centred / np.where(deviation > 1e-9, deviation, np.inf)
        _, axes = np.linalg.eigh(centred.T @ centred)
        kept.append(centred @ axes[:, ::-1][:, :dim])
    a, b = kept
    squares = np.linalg.inv(a.T @ a) @ (a.T @ b) @ np.linalg.inv(b.T @ b) @ (b.T @ a)
    return float(np.mean(np.sqrt(np.linalg.eigvals(squares).real.clip(0))))


def procrustes(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Half the squared residual after scipy's rotation of the padded arrays, taken from 1; and scipy's disparity."""
    width = max(x.shape[1], y.shape[1])
    a, b = (np.pad(side - side.mean(0), [(0, 0), (0, width - side.shape[1])]) for side in (x, y))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    rotation, _ = scipy.linalg.orthogonal_procrustes(b, a)
    return 1 - float(((a - b @ rotation) ** 2).sum()) / 2, float(scipy.spatial.procrustes(a, b)[2])


def cosines(x: np.ndarray, y: np.ndarray) -> list[float]:
    return [1 - float(scipy.spatial.distance.cosine(a, b)) for a, b in zip(x, y, strict=True)]


def correlation_structure(x: np.ndarray, y: np.ndarray) -> float:
    keep = [j for j in range(x.shape[1]) if len(set(x[:, j])) > 1 and len(set(y[:, j])) > 1]
    pairs = [(i, j) for i in keep for j in keep if i < j]
    of_x, of_y = ([float(scipy.stats.pearsonr(side[:, i], side[:, j])[0]) for i, j in pairs] for side in (x, y))
    return statistics.correlation(of_x, of_y)


def effective_rank(x: np.ndarray, *, centred: bool = True) -> tuple[float, float, float, float]:
    values = x - x.mean(0) if centred else x
    sizes = scipy.linalg.svdvals(values)
    variances = sizes**2
    return (
        math.exp(scipy.stats.entropy(sizes[sizes > 0])),
        1 / float(((variances / variances.sum()) ** 2).sum()),
        float(np.linalg.norm(values, "fro") ** 2 / np.linalg.norm(values, 2) ** 2),
        float(variances[0] / variances.sum()),
    )


def dead_features(rows: list[list[float]], *, threshold: float = 0.0) -> tuple[list[int], list[int]]:
    columns = list(zip(*rows, strict=True))
    return (
        [j for j, column in enumerate(columns) if len(set(column)) == 1],
        [j for j, column in enumerate(columns) if all(abs(entry) <= threshold for entry in column)],
    )


def massive(rows: list[list[float]], *, magnitude: float, ratio: float) -> list[tuple[int, int, float]]:
    """(row, channel, value) of every massive activation, the largest first."""
    middle = statistics.median(abs(entry) for row in rows for entry in row)
    found = [(i, j, entry) for i, row in enumerate(rows) for j, entry in enumerate(row) if abs(entry) > magnitude and abs(entry) >= ratio * middle]
    return sorted(found, key=lambda entry: (-abs(entry[2]), entry[0], entry[1]))


def systematic(rows: list[list[float]], *, outlier: float, share: float) -> set[int]:
    columns = list(zip(*rows, strict=True))
    return {j for j, column in enumerate(columns) if sum(abs(entry) >= outlier for entry in column) >= share * len(rows)}
