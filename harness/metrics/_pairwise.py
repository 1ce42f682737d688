"""Two-sample statistics that are means of a cost over pairs of rows, for all splits of the pool in one blocked pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from harness.errors import UsageError

__all__ = ["discrepancies", "require_twins", "squared_distances"]

BLOCK = 1024
CLOSE = 1e-6  # of the squared norms: below it the difference of products has lost digits, and rows are subtracted instead
Cost = Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]


def discrepancies(
    pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"], cost: Cost, *, biased: bool = False, pairs: bool = False
) -> Float[np.ndarray, "p"]:
    """2 E c(X, Y) - E c(X, X') - E c(Y, Y') of every split, c being `cost` of the squared Euclidean distance with cost 0 at distance 0.

    Within a sample a row is not paired with itself, unless `biased` (V-statistic). `pairs`: row i of x and row i of y describe one
    sample, so they are not independent and their pair is left out too (Gretton et al., 2012, eq. 4). Products and sums are in float64;
    at most two tiles of 1024 x 1024 and a centred copy of the rows are held.
    """
    rows = pooled - pooled.mean(0, dtype=np.float64)
    of_row, within = np.zeros(len(rows)), np.zeros(len(labels))
    for i in range(0, len(rows), BLOCK):
        for j in range(i, len(rows), BLOCK):
            tile, once = cost(squared_distances(rows[i : i + BLOCK], rows[j : j + BLOCK])), i == j
            of_row[i : i + BLOCK] += tile.sum(1)
            if not once:
                of_row[j : j + BLOCK] += tile.sum(0)
            left, right = (labels[:, at : at + BLOCK].astype(np.float64) for at in (i, j))
            within += np.einsum("pj,pj->p", left @ tile, right) * (1 if once else 2)
    from_first, n = labels @ of_row, labels.sum(1)
    m = len(rows) - n
    across, of_others = from_first - within, of_row.sum() - 2 * from_first + within
    if pairs:
        half = len(rows) // 2
        twins = cost(((rows[:half] - rows[half:]) ** 2).sum(1)).sum()
        return (2 * (across - twins) - within - of_others) / (half * (half - 1))
    less = 0 if biased else 1
    return 2 * across / (n * m) - within / (n * (n - less)) - of_others / (m * (m - less))


def squared_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Squared Euclidean distances in float64, to about 1e-9 relative; exactly 0 for equal rows."""
    norms = (a**2).sum(1)[:, None] + (b**2).sum(1)
    found = norms - 2 * (a @ b.T)
    left, right = np.nonzero(found < CLOSE * norms)
    for start in range(0, len(left), BLOCK):
        some = slice(start, start + BLOCK)
        found[left[some], right[some]] = ((a[left[some]] - b[right[some]]) ** 2).sum(1)
    return found


def require_twins(labels: Bool[np.ndarray, "p n"]) -> None:
    """Raises UsageError unless every split puts one of rows i and i + n/2 on each side, as swaps within pairs do."""
    half = labels.shape[1] // 2
    if labels.shape[1] % 2 or (labels[:, :half] == labels[:, half:]).any():
        raise UsageError(
            "rows do not come in pairs",
            got=f"{labels[0].sum()} and {(~labels[0]).sum()} rows",
            expected="row i of x and row i of y from one sample, on different sides",
            next="leave pairs out where the samples differ",
        )
