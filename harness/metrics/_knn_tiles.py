"""The most similar rows of every row by float32 products, tile by tile, with a bound on what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from harness.metrics._knn_rows import Rows, chunks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Kept", "centred", "exact_float32", "margin", "most_similar", "products"]

TILE = {"cpu": (1536, 512), "cuda": (8192, 8192)}  # rows and columns: tall tiles, since the rows of every tile's columns are converted anew
FEW = 16  # features


class Kept(NamedTuple):
    """The `c` best columns of every row in no order, -1 where there are fewer, and a value that no other column of the row exceeds.

    Values are (similarity - |centre|^2) / unit^2, to within `margin`.
    """

    value: Float32[np.ndarray, "u c"]
    index: Int64[np.ndarray, "u c"]
    limit: Float32[np.ndarray, "u"]


def margin(rows: Rows, left: Int64[np.ndarray, "b"] | slice = slice(None)) -> Float64[np.ndarray, "b"]:
    """How far a float32 product of the rows `left` may lie from the exact one, and two levels of similarity more.

    The bound for any order of summation (Higham, 2002, section 3.1); usual errors are a hundredth of it.
    """
    d, spread, offset = rows.x.shape[1], rows.spread / rows.unit, np.abs(rows.offset) / rows.unit**2
    rounding = 1.1 * (d + 10) * 2.0**-24 * (spread[left] * spread.max() + offset[left] + offset.max()) + 1e-30
    return rounding + max(2.0**-37, d * 2.0**-50) * rows.length[left] * rows.length.max() / rows.unit**2


def most_similar(rows: Rows, count: int, device: str) -> Kept:
    """Every row's `count` best among the other rows, of other groups where rows have groups.

    A product of two rows serves both: only tiles on and above the diagonal are made. A tile is compared with each row's worst
    kept value, and what exceeds it, which soon is little, is merged.
    """
    u, (height, width) = len(rows), TILE["cpu" if device == "cpu" else "cuda"]
    kept = Kept(np.full((u, count), -np.inf, np.float32), np.full((u, count), -1), np.full(u, -np.inf, np.float32))
    if count == 0:
        return kept
    of_left, of_right = (np.empty((min(size, u), rows.x.shape[1]), np.float32) for size in (height, width))
    with exact_float32(device):
        for above in _slices(0, u, height):
            left = centred(rows, above, device, of_left)
            for across in _slices(above.start, above.stop, width):
                stop = across.stop - above.start
                tile = products(rows, slice(above.start, across.stop), left[:stop], across, left[across.start - above.start : stop])
                np.fill_diagonal(tile[across.start - above.start :], -np.inf)
                _merge(kept, tile, slice(above.start, across.stop), across)
                _merge(kept, tile[: across.start - above.start].T, across, slice(above.start, across.start))
            for across in _slices(above.stop, u, width):
                tile = products(rows, above, left, across, centred(rows, across, device, of_right))
                _merge(kept, tile, above, across)
                _merge(kept, tile.T, across, above)
    return kept


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, stop)) for begin in range(start, stop, size))


def centred(rows: Rows, chosen: slice | Int64[np.ndarray, "b"], device: str, memory: Float32[np.ndarray, "size d"]) -> Tensor:
    """The chosen rows as float32 (b, d), written into `memory`."""
    import torch

    block = memory[: chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)]
    rows.centred(chosen, block)
    return torch.from_numpy(block).to(device)


def products(
    rows: Rows, above: slice | Int64[np.ndarray, "b"], left: Tensor, across: slice | Int64[np.ndarray, "c"], right: Tensor
) -> Float32[np.ndarray, "b c"]:
    """(similarity - |centre|^2) / unit^2 of two blocks; minus infinity where a row meets its own group."""
    tile = _product(left, right)
    one, other = ((rows.offset[chosen] / rows.unit**2).astype(np.float32) for chosen in (above, across))
    tile += one[:, None]
    tile += other
    if rows.group is not None:
        own, others = rows.group[above], rows.group[across]
        if np.isin(own, others).any():
            tile[own[:, None] == others] = -np.inf
    return tile


def _product(left: Tensor, right: Tensor) -> Float32[np.ndarray, "b c"]:
    """Inner products, by torch where they are worth its threads: many short parallel sections are slow on a busy machine."""
    if left.shape[1] > FEW or left.device.type != "cpu":
        return (left @ right.T).cpu().numpy()
    tile, columns = np.zeros((len(left), len(right)), np.float32), np.ascontiguousarray(right.numpy().T)
    for part in chunks(*tile.shape):
        for one, other in zip(left[part].numpy().T, columns, strict=True):
            tile[part] += one[:, None] * other
    return tile


@contextmanager
def exact_float32(device: str) -> Iterator[None]:
    """Products of float32 in float32, whatever the process allows elsewhere (TF32, bfloat16, autocast): the margin relies on it."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _merge(kept: Kept, tile: Float32[np.ndarray, "b c"], above: slice, across: slice) -> None:
    """Takes the columns of a tile that beat the worst kept of their row; a tile may be transposed."""
    if tile.size == 0:
        return
    limit = kept.limit[above].copy()
    fresh = np.flatnonzero(np.isneginf(limit))
    if len(fresh):
        columns = np.arange(across.start, across.stop)
        for part in chunks(len(fresh), tile.shape[1]):
            values = tile[fresh[part]]
            _keep(kept, above.start + fresh[part], values, np.broadcast_to(columns, values.shape))
        limit[fresh] = np.inf
    mask = tile > limit[:, None]
    if mask.flags.c_contiguous:
        row, column = np.divmod(np.flatnonzero(mask), tile.shape[1])
    else:  # of a transposed tile, read in the order of memory
        column, row = np.divmod(np.flatnonzero(mask.T), tile.shape[0])
        order = np.argsort(row, kind="stable")
        row, column = row[order], column[order]
    if len(row):
        _insert(kept, above.start + row, across.start + column, tile[row, column])


def _insert(kept: Kept, row: Int64[np.ndarray, "h"], index: Int64[np.ndarray, "h"], value: Float32[np.ndarray, "h"]) -> None:
    """Merges candidates, sorted by row, into the kept of their rows."""
    touched, start, count = np.unique(row, return_index=True, return_counts=True)
    at = np.repeat(np.arange(len(touched)), count), np.arange(len(row)) - np.repeat(start, count)
    values, indices = np.full((len(touched), count.max()), -np.inf, np.float32), np.full((len(touched), count.max()), -1)
    values[at], indices[at] = value, index
    _keep(kept, touched, values, indices)


def _keep(kept: Kept, row: Int64[np.ndarray, "r"], value: Float32[np.ndarray, "r w"], index: Int64[np.ndarray, "r w"]) -> None:
    """Keeps the best of the kept and the new ones. The worst kept is the limit; minus infinity while nothing had to be dropped."""
    count, old = kept.value.shape[1], kept.index[row]
    values = np.concatenate([kept.value[row], value], axis=1)
    best = np.argpartition(-values, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(values, best, 1)
    indices = np.where(best < count, np.take_along_axis(old, np.minimum(best, count - 1), 1), np.take_along_axis(index, np.maximum(best - count, 0), 1))
    kept.value[row], kept.limit[row] = values, values.min(1)
    kept.index[row] = np.where(np.isneginf(values), -1, indices)
