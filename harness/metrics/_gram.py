"""Kernel matrices of feature rows, compared in row blocks or through products of features; no n x n array unless n is small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from harness.errors import UnknownNameError, UsageError
from harness.metrics._base import require_pair

__all__ = ["KERNELS", "Gram", "Moments", "gram", "hsic", "inner"]

KERNELS = ("linear", "rbf")
BLOCK = 512  # rows of a kernel matrix, or columns of a product, held at a time at most
ENTRIES = 2**22  # of one block: 32 MiB
WHOLE = 2048  # rows up to which a kept kernel matrix is stored: 32 MiB
PAIRED_ROWS = 1000  # rows whose distances give the median bandwidth


class Moments(NamedTuple):
    """Of a kernel matrix: sum of squares and row sums beside the diagonal, and the diagonal."""

    square: float
    sums: Float[np.ndarray, "n"]
    diagonal: Float[np.ndarray, "n"]


@final
@dataclass(frozen=True, eq=False)
class Gram:
    """The kernel matrix of `rows` less the constant `shift`, which no centred comparison sees; `matrix` and `moments` once kept."""

    rows: Float[np.ndarray, "n d"]
    sigma: float | None = None
    shift: float = 0.0
    matrix: Float[np.ndarray, "n n"] | None = None
    moments: Moments | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def linear(self) -> bool:
        return self.sigma is None

    @property
    def diagonal(self) -> Float[np.ndarray, "n"]:
        return np.einsum("nd,nd->n", self.rows, self.rows) if self.linear else np.full(len(self), 1.0 - self.shift)

    def block(self, start: int, stop: int) -> Float[np.ndarray, "b n"]:
        """Rows `start` to `stop` of the kernel matrix, with zeros in place of its diagonal."""
        if self.matrix is not None:
            return self.matrix[start:stop]
        found = self.rows[start:stop] @ self.rows.T
        if self.sigma is not None:
            squares = np.einsum("nd,nd->n", self.rows, self.rows)
            found *= -2  # in place throughout: a block is what the memory holds
            found += squares
            found += squares[start:stop, None]
            np.maximum(found, 0, out=found)
            found /= -2 * self.sigma**2
            np.exp(found, out=found)
            found -= self.shift
        found[np.arange(len(found)), np.arange(start, start + len(found))] = 0
        return found

    def kept(self) -> Gram:
        """The same, with what makes further comparisons cheap: its moments, and its matrix where that is small and of use."""
        # A stored matrix costs n * n a comparison, a product of two linear sides n * d * d at twenty times the speed.
        of_use = len(self) <= WHOLE and (not self.linear or 20 * len(self) <= self.rows.shape[1] ** 2)
        found = replace(self, matrix=np.concatenate([self.block(*bounds) for bounds in _bounds(len(self), len(self))])) if of_use else self
        return replace(found, moments=inner(found, found)[1])

    def take(self, rows: Int[np.ndarray, "m"]) -> Gram:
        """The kernel matrix of distinct `rows`, in that order; bandwidth and centre stay those of all rows. Raises UsageError if rows repeat."""
        if len(rows) and np.bincount(rows, minlength=len(self)).max() > 1:
            raise UsageError("rows of a kernel matrix are taken once each", got=f"{len(rows) - len(np.unique(rows))} rows again", expected="distinct rows")
        matrix = None if self.matrix is None else self.matrix[np.ix_(rows, rows)]
        moments = None
        if self.moments is not None and len(rows) == len(self):  # a permutation: the same entries in another order
            moments = Moments(self.moments.square, self.moments.sums[rows], self.moments.diagonal[rows])
        return replace(self, rows=self.rows[rows], matrix=matrix, moments=moments)


def gram(x: Float[np.ndarray, "n d"], kernel: str, sigma: float | None) -> Gram:
    """The kernel matrix of finite rows in float64, `sigma` None being the median distance of distinct rows. Raises UsageError."""
    if kernel not in KERNELS:
        raise UnknownNameError("kernel", kernel, KERNELS)
    if sigma is not None and not (np.isfinite(sigma) and sigma > 0):
        raise UsageError("the bandwidth of the kernel is no length", got=f"sigma {sigma}", expected="a positive number, or None for the median distance")
    require_pair(x, x, "two_sample", least=2)
    values = x.astype(np.float64)
    if not np.ptp(values, axis=0).any():
        raise UsageError("all rows are equal, so no kernel tells them apart", got=f"{x.shape[1]} constant columns", expected="at least one column that varies")
    rows = values - values.mean(0)
    if kernel == "linear":
        return Gram(rows)
    found = Gram(rows, _median_distance(rows) if sigma is None else float(sigma))
    first = found.block(*next(_bounds(len(rows), len(rows))))
    # Without the shift a wide bandwidth leaves only the last digits of ones to compare.
    return replace(found, shift=float(first.sum() / (first.size - len(first))))


def inner(x: Gram, y: Gram) -> tuple[float, Moments, Moments]:
    """The sum of products of two kernel matrices beside their diagonals, and the moments of each; one pass over both."""
    n, d, e = len(x), x.rows.shape[1], y.rows.shape[1]
    stored = x.matrix is not None and y.matrix is not None
    if x.linear and y.linear and not stored and d * e + d * d + e * e <= n * (d + e):
        diagonals = x.diagonal, y.diagonal
        moments = [side.moments or _product_moments(side, own) for side, own in zip((x, y), diagonals, strict=True)]
        return _product(x.rows, y.rows) - float(diagonals[0] @ diagonals[1]), moments[0], moments[1]
    cross, squares, sums = 0.0, [0.0, 0.0], [np.zeros(n), np.zeros(n)]
    for start, stop in _bounds(n, n):
        blocks = x.block(start, stop), y.block(start, stop)
        cross += float(np.vdot(*blocks))
        for own, side in enumerate((x, y)):
            if side.moments is None:
                squares[own] += float(np.vdot(blocks[own], blocks[own]))
                sums[own][start:stop] = blocks[own].sum(1)
    found = [side.moments or Moments(squares[own], sums[own], side.diagonal) for own, side in enumerate((x, y))]
    return cross, found[0], found[1]


def hsic(cross: float, x: Moments, y: Moments, *, debiased: bool) -> float:
    """The Hilbert-Schmidt independence criterion of two kernel matrices.

    Debiased: Song et al. (2012), equation 5. Else trace(K H L H), without a factor of n.
    """
    n = len(x.sums)
    if debiased:
        return (cross + float(x.sums.sum() * y.sums.sum()) / ((n - 1) * (n - 2)) - 2 * float(x.sums @ y.sums) / (n - 2)) / (n * (n - 3))
    full = x.sums + x.diagonal, y.sums + y.diagonal
    return cross + float(x.diagonal @ y.diagonal) - 2 * float(full[0] @ full[1]) / n + float(full[0].sum() * full[1].sum()) / n**2


def _product_moments(side: Gram, diagonal: Float[np.ndarray, "n"]) -> Moments:
    sums = side.rows @ side.rows.sum(0) - diagonal
    return Moments(_product(side.rows, side.rows) - float(diagonal @ diagonal), sums, diagonal)


def _product(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"]) -> float:
    """The sum of squares of x^T y, which is the sum of products of the two linear kernel matrices."""
    return sum(float(np.square(x[:, start:stop].T @ y).sum()) for start, stop in _bounds(x.shape[1], y.shape[1]))


def _bounds(size: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, min(BLOCK, ENTRIES // width))
    return ((start, min(start + step, size)) for start in range(0, size, step))


def _median_distance(rows: Float[np.ndarray, "n d"]) -> float:
    """Of evenly spaced rows, equal pairs left out, so that repeated rows do not shrink it to nothing."""
    few = rows[np.linspace(0, len(rows) - 1, min(len(rows), PAIRED_ROWS)).astype(np.int64)]
    squares = np.einsum("nd,nd->n", few, few)
    distances = (squares[:, None] + squares - 2 * few @ few.T)[np.triu_indices(len(few), 1)]
    distances = distances[distances > 1e-12 * squares.max()]
    if not len(distances):
        raise UsageError("no distance is left to take a bandwidth from", got="equal rows among those looked at", expected="a sigma")
    return float(np.median(np.sqrt(distances)))
