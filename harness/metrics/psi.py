"""Population stability index of each feature."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.metrics._base import require_pair, two_sample
from harness.metrics._binned import counts, edges, shares
from harness.metrics._features import PerFeature, per_feature

__all__ = ["psi"]


@two_sample(identical=0.0)
def psi(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], *, bins: int = 10, smoothing: float = 0.5) -> PerFeature:
    """Mean over features of the population stability index sum (p_y - p_x) log(p_y / p_x), at least 0.

    Bins hold a tenth of the accepted sample `x` each, the outer ones are open; `smoothing` is added to every count of a bin that is not empty
    in both, and with 0 a bin that only one sample uses gives infinity. Sees each feature alone. Credit scoring calls less than 0.1 stable
    and more than 0.25 shifted (Siddiqi, 2006): a convention for thousands of rows, not a test.

    Biased upwards: two samples of one distribution give about (bins - 1) (1/n + 1/m), which is 0.09 at n = m = 200 (Yurdakul, 2018);
    unequal n raise it. Compare values at equal n, or with their permutation null.
    Raises UsageError for fewer than two bins or rows, negative smoothing, unequal widths, NaN or infinity.
    """
    require_pair(x, y, "two_sample")
    ends = edges(x, bins=bins)
    p, q = shares(counts(x, ends), counts(y, ends), smoothing=smoothing)
    with np.errstate(divide="ignore"):
        ratio = np.divide(q, p, out=np.ones_like(p), where=(p > 0) | (q > 0))
        return per_feature(((q - p) * np.log(ratio)).sum(0))
