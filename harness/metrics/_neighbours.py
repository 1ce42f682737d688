"""The most similar samples of every sample, exact and blocked, and of any selection or order of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from harness.errors import MissingError, UsageError
from harness.metrics._knn_rows import distinct_rows
from harness.metrics._knn_select import selected
from harness.metrics._knn_table import Table, candidate_table

__all__ = ["ONCE", "Neighbours", "neighbours"]

ONCE = 8  # spare candidates, so that the bound on float32 nearly always proves `topk` of them complete


@dataclass(frozen=True)
class Neighbours:
    """Of n samples the `k` most similar others, best first, with their inner products in float64.

    `own` is each sample's product with itself: 1 or 0 where rows were normalised. The rest serves `take`.
    """

    index: Int64[np.ndarray, "n k"]
    similarity: Float64[np.ndarray, "n k"]
    own: Float64[np.ndarray, "n"]
    normalize: bool
    table: Table
    label: Int64[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def topk(self) -> int:
        return self.index.shape[1]

    def take(self, rows: Int[np.ndarray, "m"]) -> Neighbours:
        """Neighbours among some of the samples, or all in another order, equal to those found anew.

        Costs a few milliseconds per thousand samples while enough candidates are left; rows that have lost too many are compared again,
        for which the array that was given is still read. Ties are judged by the longest row of all samples, taken or not.
        Raises UsageError for a row that is named twice or does not exist, or too few samples.
        """
        rows = np.asarray(rows)
        if len(np.unique(rows)) < len(rows) or (len(rows) and not 0 <= rows.min() <= rows.max() < len(self)):
            raise UsageError("rows do not select samples", got=f"{len(rows)} rows of {len(self)} samples", expected="rows that exist, each once")
        return _selection(self.table, self.label[rows], self.topk, self.own[rows], self.normalize, whole=False)


def neighbours(
    x: Float[np.ndarray, "n d"],
    *,
    topk: int = 10,
    normalize: bool = True,
    groups: Sequence[object] | np.ndarray | None = None,
    device: str = "cpu",
    spare: int | None = None,
) -> Neighbours:
    """The `topk` samples of largest inner product with each sample, itself left out, and with `groups` its whole group.

    `normalize` divides rows by their length first; rows of zeros stay, with a similarity of 0 to all. The order is that of
    similarities in float64, whatever the input's dtype and the device: float32 products choose candidates, float64 products
    order them, and rows whose candidates a bound on float32's error does not prove complete are compared again. Similarities closer than
    2^-39 of the largest possible are ties, and ties go to the lower index. Half precision is promoted.
    Costs n^2 d / 2 multiplications once, on `device`; memory for `topk` + `spare` candidates a row, never n by n. `spare` ones are
    kept for `take`: by default as many as a random half of the samples needs; where nothing will be taken, `ONCE` of them is quicker.
    Raises UsageError for NaN, a `topk` below 1 or above the number of samples outside the own group, or a device that torch does not
    know; MissingError for a GPU that is not there.
    """
    if x.ndim != 2 or x.shape[1] == 0 or not len(x) or not np.isfinite([x.min(), x.max()]).all():
        raise UsageError("these rows have no neighbours", got=f"shape {x.shape}" + (", with NaN or infinity" if x.size else ""), expected="finite rows (n, d)")
    group = None
    if groups is not None:
        if len(groups) != len(x):
            raise UsageError("every row needs a group", got=f"{len(groups)} groups", expected=f"{len(x)}, one for each row")
        group = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    _require(len(x), group, topk)
    _require_device(device)
    rows = distinct_rows(x, normalize=normalize, group=group)
    own = rows.length[rows.label] ** 2
    return _selection(candidate_table(rows, topk, spare, device), rows.label, topk, own, normalize, whole=True)


def _selection(table: Table, label: Int64[np.ndarray, "m"], topk: int, own: Float64[np.ndarray, "m"], normalize: bool, *, whole: bool) -> Neighbours:
    _require(len(label), None if table.rows.group is None else table.rows.group[label], topk)
    return Neighbours(*selected(table, label, topk, whole=whole), own, normalize, table, label)


def _require(n: int, group: Int64[np.ndarray, "n"] | None, topk: int) -> None:
    largest = 1 if group is None or not n else int(np.bincount(group).max())
    if not 1 <= topk <= n - largest:
        raise UsageError(
            "topk does not fit the samples",
            got=f"topk {topk} of {n} samples" + ("" if group is None else f", {largest} of them in one group"),
            expected=f"1 to {n - largest}: the samples outside the own group" if group is not None else f"1 to {n - 1}: the other samples",
            next="give more samples, or a smaller topk",
        )


def _require_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UsageError("torch knows no such device", got=device, expected="cpu, cuda or cuda:0") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise MissingError("no CUDA device was found", next="run on a machine with a GPU, or with device cpu")
