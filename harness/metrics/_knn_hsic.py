"""The Hilbert-Schmidt independence criterion of two kernels that are zero outside the same few pairs of samples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from harness.metrics._knn_pair import located, turned

__all__ = ["sparse_hsic"]


def sparse_hsic(key: Int64[np.ndarray, "m"], k: Float64[np.ndarray, "m"], l: Float64[np.ndarray, "m"], n: int, *, unbiased: bool) -> float:  # noqa: E741
    """HSIC of the kernels K and L whose entries at the pairs `key` (i * n + j, ascending) are `k` and `l`; they need not be symmetric.

    Unbiased is Song et al. (2012), equation 5, for pairs without i = j; otherwise trace(K H L H), not divided by (n - 1)^2.
    Takes m log m steps: of both formulas only a trace of m terms and the sums of rows and columns are left.
    """
    row, column = np.divmod(key, n)
    back = located(turned(key, n), key)
    trace = float(k[back.there] @ l[back.at[back.there]])
    total = float(k.sum()) * float(l.sum())
    rows_k, columns_k, rows_l, columns_l = (np.bincount(of, weights, n) for weights in (k, l) for of in (row, column))
    if unbiased:
        return (trace + total / ((n - 1) * (n - 2)) - 2 * float(columns_k @ rows_l) / (n - 2)) / (n * (n - 3))
    return trace - float(columns_k @ rows_l + columns_l @ rows_k) / n + total / n**2
