"""Two dynamic programs over the ordered neighbours of every sample, all samples at a time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

__all__ = ["common_subsequences", "edit_distances"]


def common_subsequences(x: Int64[np.ndarray, "n k"], y: Int64[np.ndarray, "n k"]) -> Int64[np.ndarray, "n"]:
    """Length of the longest common subsequence of each row of x with the same row of y."""
    n, k = x.shape
    above = np.zeros((k + 1, n), np.int64)
    for i in range(k):
        line = np.zeros_like(above)
        for j in range(k):
            line[j + 1] = np.where(x[:, i] == y[:, j], above[j] + 1, np.maximum(above[j + 1], line[j]))
        above = line
    return above[k]


def edit_distances(x: Int64[np.ndarray, "n k"], y: Int64[np.ndarray, "n k"]) -> Int64[np.ndarray, "n"]:
    """Insertions, deletions and substitutions that turn each row of x into the same row of y."""
    n, k = x.shape
    above = np.repeat(np.arange(k + 1)[:, None], n, axis=1)
    for i in range(k):
        line = np.full_like(above, i + 1)
        for j in range(k):
            line[j + 1] = np.minimum(np.minimum(above[j + 1], line[j]) + 1, above[j] + (x[:, i] != y[:, j]))
        above = line
    return above[k]
