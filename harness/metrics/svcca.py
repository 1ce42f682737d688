"""Singular vector canonical correlation: how far the leading directions of two feature sets are linear images of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from harness.errors import UsageError
from harness.metrics._base import paired, require_pair

__all__ = ["svcca"]


class Correlations(NamedTuple):
    """Mean canonical correlation in [0, 1], the correlations in falling order, and the share of variance kept of x and of y."""

    value: float
    correlations: tuple[float, ...]
    kept_x: float
    kept_y: float


@final
@dataclass(frozen=True, eq=False)
class Directions:
    """An orthonormal `basis` of the leading directions of feature rows, and the share of variance they keep."""

    rows: Float[np.ndarray, "n d"]
    basis: Float[np.ndarray, "n k"]
    kept: float
    dim: int | float
    standardise: bool

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Int[np.ndarray, "m"]) -> Directions:
        """Those of the given rows; rows in another order have the same directions, which are not sought again."""
        if len(rows) == len(self) == len(np.unique(rows)):
            return Directions(self.rows[rows], self.basis[rows], self.kept, self.dim, self.standardise)
        return _directions(self.rows[rows], dim=self.dim, standardise=self.standardise)


def _directions(x: Float[np.ndarray, "n d"], *, dim: int | float = 10, standardise: bool = True) -> Directions:
    """Raises UsageError for an impossible `dim`, or more directions than the rows span."""
    whole = isinstance(dim, (int, np.integer))
    if isinstance(dim, bool) or not (dim >= 1 if whole else 0 < dim <= 1):
        raise UsageError("this is no number of directions", got=f"dim {dim!r}", expected="a whole number of at least 1, or a share of variance in (0, 1]")
    require_pair(x, x, "two_sample", least=2)
    values = x.astype(np.float64)
    varies = np.ptp(values, axis=0) > 0  # exactly, for the deviation of a constant column is rounding
    values = np.where(varies, values - values.mean(0), 0.0)
    if standardise:
        values = values / np.where(varies, values.std(0), 1.0)
    left, sizes, _ = np.linalg.svd(values, full_matrices=False)
    rank = int((sizes > sizes[0] * max(x.shape) * np.finfo(np.float64).eps).sum())
    if rank < (1 if not whole else int(dim)):
        raise UsageError(
            "the features have fewer directions than asked for",
            got=f"rank {rank} of {x.shape[1]} features in {len(x)} rows",
            expected=f"at least {dim if whole else 1}",
            next=f"give dim={rank}, or a share of variance such as dim=0.99" if rank else "look for a set whose rows are all equal",
        )
    shares = np.cumsum(sizes[:rank] ** 2) / (sizes[:rank] ** 2).sum()
    count = int(dim) if whole else min(int(np.searchsorted(shares, dim - 1e-12)) + 1, rank)
    return Directions(x, left[:, :count], float(shares[count - 1]), dim, standardise)


@paired(identical=1.0, prepare=_directions)
def svcca(
    x: Float[np.ndarray, "n d"] | Directions, y: Float[np.ndarray, "n e"] | Directions, *, dim: int | float = 10, standardise: bool = True
) -> Correlations:
    """Mean canonical correlation, in [0, 1], of the leading `dim` directions of two feature sets; 1 for linear images of each other.

    Raghu et al. (2017). A share of variance in place of a number takes as many directions of each side as hold it, and averages over
    the smaller number of the two. Columns are scaled to one deviation first, as platonic-rep does (`standardise` False as in the
    paper); constant ones stay 0. Everything is exact, so that nothing depends on a seed; where two singular values tie at `dim` the
    directions are not unique. Independent features give a little under sqrt(dim / n), not 0. Half precision is promoted to float64.
    Raises UsageError for rows that do not pair up, a rank below `dim`, or so many directions that some correlations are 1 for any
    features: `dim` of x plus `dim` of y must stay below the number of rows.
    """
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        require_pair(x, y, "paired", least=2)
    x, y = (side if isinstance(side, Directions) else _directions(side, dim=dim, standardise=standardise) for side in (x, y))
    if len(x) != len(y):
        raise UsageError("the two do not describe the same samples", got=f"{len(x)} and {len(y)} rows", expected="one row of each for every sample")
    if (together := x.basis.shape[1] + y.basis.shape[1]) >= len(x):
        raise UsageError(
            "so many directions of so few samples are correlated whatever they are",
            got=f"{x.basis.shape[1]} and {y.basis.shape[1]} directions of {len(x)} rows",
            expected=f"more than {together} rows",
            next="give a smaller dim, or more samples",
        )
    found = np.minimum(np.linalg.svd(x.basis.T @ y.basis, compute_uv=False), 1.0)
    return Correlations(float(found.mean()), tuple(found.tolist()), x.kept, y.kept)
