"""What a feature set looks like from a few fixed directions: figures that a rotation or a permutation of the units moves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError

__all__ = ["sketch"]

BLOCK = 1024  # rows (or columns) in float64 at a time
LEADING = 8  # singular values told


def sketch(x: Float[np.ndarray, "n d"], *, size: int = 16, seed: int = 0) -> dict[str, float]:
    """Projections of the mean and of the covariance of `x` on `size` fixed random directions, and the spectrum, in float64.

    `mean_at_00` … is the mean feature m along v_i, in the unit of the features; `variance_at_00` … is v_i C v_i and `covariance_at_00_01`
    … is v_i C v_(i+1), in that unit squared, where C is the covariance over samples (divided by n) and is never formed: rows are projected
    first. A rotation or permutation of the units moves them although it may leave every marginal statistic as it was; the order of
    the rows moves nothing. A component of v is Gaussian with variance 1/d, so that the squares are on average the mean square of m and
    the mean variance. `singular_1` … `singular_8` are the leading singular values of the centred rows over the root of the sum of all
    squares, from 0 to 1, 0 where there are fewer; `effective_rank` is exp of the entropy of all singular values over their sum, from 1
    to min(n - 1, d) (Roy and Vetterli, 2007), 0 when no row differs from another. Half precision is promoted.
    Raises UsageError for an empty array, one that holds NaN or infinity, or a size below 1.
    """
    if x.ndim != 2 or x.size == 0 or size < 1:
        raise UsageError("there is nothing to sketch", got=f"shape {x.shape}, {size} directions", expected="rows (n, d), n and d at least 1, and a direction")
    if not np.isfinite(x).all():
        raise UsageError("the features hold NaN or infinity", got=f"{(~np.isfinite(x).all(1)).sum()} of {len(x)} rows", expected="finite rows")
    views = _directions(x.shape[1], size, seed)
    projected = np.concatenate([block.astype(np.float64) @ views.T for block in _blocks(x)])
    mean = projected.mean(0)
    centred = projected - mean
    variance = (centred**2).mean(0)
    between = (centred[:, :-1] * centred[:, 1:]).mean(0)
    return {
        **{f"mean_at_{i:02d}": float(value) for i, value in enumerate(mean)},
        **{f"variance_at_{i:02d}": float(value) for i, value in enumerate(variance)},
        **{f"covariance_at_{i:02d}_{i + 1:02d}": float(value) for i, value in enumerate(between)},
        **_spectrum(x),
    }


@lru_cache(maxsize=8)
def _directions(width: int, size: int, seed: int) -> Float[np.ndarray, "size width"]:
    """Gaussian directions, the same on every machine and numpy version.

    numpy promises a bit generator's raw stream, but not that of `Generator.standard_normal` (NEP 19), so the normal
    numbers are made here (Box and Muller, 1958).
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, width])).random_raw(2 * size * width)
    uniform = ((bits >> np.uint64(11)) + 0.5) * 2.0**-53  # inside (0, 1)
    radius, angle = uniform[0::2], uniform[1::2]
    normal = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    found = normal.reshape(size, width) / np.sqrt(width)
    found.flags.writeable = False
    return found


def _spectrum(x: Float[np.ndarray, "n d"]) -> dict[str, float]:
    squares = np.linalg.eigvalsh(_products(x))[::-1]
    rounding = len(squares) * np.finfo(np.float64).eps * squares[0]
    values = np.sqrt(np.where(squares > rounding, squares, 0.0))
    total = float(np.sqrt((values**2).sum()))
    if total <= 1e-14 * float(np.linalg.norm(x[0].astype(np.float64))) * len(x):  # rows that differ by the rounding of their mean only
        return {**{f"singular_{k + 1}": 0.0 for k in range(LEADING)}, "effective_rank": 0.0}
    leading = np.pad(values[:LEADING] / total, (0, max(0, LEADING - len(values))))
    shares = values[values > 0] / values.sum()
    rank = float(np.exp(-(shares * np.log(shares)).sum()))
    return {**{f"singular_{k + 1}": float(value) for k, value in enumerate(leading)}, "effective_rank": rank}


def _products(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m m"]:
    """Products of the centred rows, or of their columns where those are fewer: the eigenvalues are the squared singular values."""
    rows, width = x.shape
    mean = sum(block.astype(np.float64).sum(0) for block in _blocks(x)) / rows
    total = np.zeros((min(x.shape),) * 2)
    for start in range(0, max(x.shape), BLOCK):
        part = slice(start, start + BLOCK)
        centred = x[part].astype(np.float64) - mean if rows >= width else (x[:, part].astype(np.float64) - mean[part]).T
        total += centred.T @ centred
    return total


def _blocks(x: Float[np.ndarray, "n d"]) -> list[np.ndarray]:
    return [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
