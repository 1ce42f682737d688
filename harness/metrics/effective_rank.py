"""Effective rank: over how many directions the variance of one feature set is spread."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError
from harness.metrics._base import require_pair

__all__ = ["effective_rank"]


class Ranks(NamedTuple):
    """Effective rank, participation ratio and stable rank, each from 1 to the rank, and the share of variance of the first direction."""

    value: float
    participation: float
    stable: float
    first: float


def effective_rank(x: Float[np.ndarray, "n d"], *, centred: bool = True) -> Ranks:
    """exp of the entropy of the singular values s / sum(s), from 1 to min(n, d): Roy and Vetterli (2007).

    `participation` is sum(s^2)^2 / sum(s^4), `stable` sum(s^2) / max(s^2), which a single large direction moves more. Rows are
    centred first unless `centred` is False, which is the definition of the source and lets the mean count as a direction. All are
    biased down where rows are few. Half precision is promoted to float64. Raises UsageError for rows that are not finite, all equal
    (centred), or all zero.
    """
    require_pair(x, x, "two_sample", least=2 if centred else 1)
    values = x.astype(np.float64)
    if not (np.ptp(values, axis=0) if centred else values).any():
        same = "equal" if centred else "zero"
        raise UsageError("features without variation have no rank", got=f"{len(x)} rows that are all {same}", expected="rows that differ")
    sizes = np.linalg.svd(values - values.mean(0) if centred else values, compute_uv=False)
    sizes = sizes / sizes[0]
    shares, squares = sizes / sizes.sum(), sizes**2
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    variance = float(squares.sum())
    return Ranks(float(np.exp(entropy)), variance**2 / float((squares**2).sum()), variance, 1 / variance)
