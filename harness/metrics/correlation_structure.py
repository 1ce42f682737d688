"""Agreement of the correlations among features: sees units that changed places although every unit's own distribution is the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError
from harness.metrics._base import require_pair, two_sample

__all__ = ["correlation_structure"]

BLOCK = 128  # features whose correlations with all others are held at a time
LEAST = 3  # features: two have one correlation, which agrees with nothing


class Agreement(NamedTuple):
    """Correlation in [-1, 1] of the two sets of correlations, and how many features were left out because one side has them constant."""

    value: float
    left_out: int


@two_sample(identical=1.0, closer="higher")
def correlation_structure(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Agreement:
    """Pearson correlation, in [-1, 1], between corr(feature i, feature j) in x and in y over all pairs i < j.

    Representational similarity of features instead of samples (after Kriegeskorte et al., 2008): rows need not correspond, features
    must. Scale and shift of single features change nothing; their order and a rotation do. Few samples lower it: two samples of one
    Gaussian, 64 wide, agree to 0.59, 0.88 and 0.99 at n = 100, 500 and 5000, so judge it against its null, not against 1.
    Features constant in either set are left out and counted. Half precision is promoted to float64; no d x d array is held.
    Raises UsageError for unequal widths, fewer than three rows, fewer than three features that vary, or correlations that are all equal.
    """
    require_pair(x, y, "two_sample", least=3)
    varies = (x.max(0) > x.min(0)) & (y.max(0) > y.min(0))
    if varies.sum() < LEAST:
        raise UsageError("too few features vary in both sets", got=f"{int(varies.sum())} of {len(varies)}", expected=f"at least {LEAST}")
    sides = [_standardised(side[:, varies]) for side in (x, y)]
    width = int(varies.sum())
    # Correlations of each side less a constant near their mean, so that their spread is not a small difference of large sums.
    centre = [(float(np.square(side.sum(1)).sum()) - width) / (width * (width - 1)) for side in sides]
    sums, products = np.zeros(2), np.zeros((2, 2))
    for start in range(0, width, BLOCK):
        above = np.triu(np.ones((min(BLOCK, width - start), width - start), bool), 1)
        pairs = np.stack([(side[:, start : start + BLOCK].T @ side[:, start:])[above] - mean for side, mean in zip(sides, centre, strict=True)])
        sums += pairs.sum(1)
        products += pairs @ pairs.T
    moments = products - np.outer(sums, sums) / (width * (width - 1) / 2)
    spread = np.diag(moments) / (width * (width - 1) / 2)
    if (spread <= 1e-24).any():
        name = "xy"[int(spread.argmin())]
        raise UsageError(f"the correlations of {name} are all equal", got=f"a variance of {spread.min():.3g}", expected="more than rounding")
    return Agreement(float(np.clip(moments[0, 1] / np.sqrt(moments[0, 0] * moments[1, 1]), -1, 1)), int((~varies).sum()))


def _standardised(x: Float[np.ndarray, "n w"]) -> Float[np.ndarray, "n w"]:
    """Columns of mean 0 and length 1, so that their products are correlations."""
    values = x.astype(np.float64)
    values = values - values.mean(0)
    return values / np.linalg.norm(values, axis=0)
