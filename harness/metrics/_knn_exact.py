"""Similarities of chosen pairs in float64, and whole numbers that put similarities equal to rounding on one level."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Bool, Float64, Int64

from harness.metrics._knn_rows import Rows

__all__ = ["LOWEST", "levels", "ranked", "similarities"]

BITS = 39  # similarities are told apart to 2^-39 (2e-12) of the largest that the row's length allows
FEATURES = 2**19  # entries of a block of columns: 4 MB
LOWEST = -(2**62)


def similarities(rows: Rows, left: Int64[np.ndarray, "b"], start: Int64[np.ndarray, "c"], right: Int64[np.ndarray, "m"]) -> Float64[np.ndarray, "m"]:
    """Products of row left[i] with the rows right[start[i]:start[i + 1]].

    Accumulated in float64, block by block of the features: the value of a pair depends on nothing but its two rows, so it is the same in
    any selection and order of the samples.
    """
    import torch

    width = max(16, FEATURES // len(rows))
    every = len(left) == len(rows)
    if not every:
        used, right = np.unique(np.concatenate([left, right]), return_inverse=True)
        left, right = right[: len(left)], right[len(left) :]
        width = max(16, FEATURES // max(1, len(used)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # torch calls its sparse tensors a beta
        total, crow, columns = torch.zeros(len(right), dtype=torch.float64), torch.from_numpy(start), torch.from_numpy(right)
        for begin in range(0, rows.x.shape[1], width):
            block = rows.values(slice(0, len(rows)) if every else used, slice(begin, begin + width))
            right_block = torch.from_numpy(block)
            left_block = right_block if every else right_block[torch.from_numpy(left)]
            wanted = torch.sparse_csr_tensor(crow, columns, total, (len(left), len(block)), check_invariants=False)
            total = torch.sparse.sampled_addmm(wanted, left_block, right_block.T, beta=1.0).values()
    return total.numpy()


def levels(rows: Rows, left: Int64[np.ndarray, "b"], similarity: Float64[np.ndarray, "b ..."]) -> Int64[np.ndarray, "b ..."]:
    """Similarities of rows `left` as multiples of 2^-39 of the largest that is possible: those that differ by rounding only are equal."""
    top = rows.length[left] * rows.length.max()
    exponent = BITS - np.ceil(np.log2(np.where(top > 0, top, 1))).astype(np.int64)
    return np.rint(np.ldexp(similarity, exponent.reshape(-1, *[1] * (similarity.ndim - 1)))).astype(np.int64)


def ranked(level: Int64[np.ndarray, "b c"], rank: Int64[np.ndarray, "b c"], absent: Bool[np.ndarray, "b c"]) -> Int64[np.ndarray, "b c"]:
    """The order of each row: higher level first, then lower rank (below 2^22), absent ones last."""
    return np.argsort(np.where(absent, -LOWEST, rank - (level << 22)), axis=1, kind="stable")
