"""Jensen-Shannon divergence of each feature's distribution, in quantile bins of the pooled rows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from harness.metrics._base import require_pair, two_sample
from harness.metrics._binned import pooled_divergences
from harness.metrics._features import PerFeature, observed, per_feature

__all__ = ["js_divergence"]


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return sum((s * np.log(np.divide(2 * s, p + q, out=np.ones_like(s), where=s > 0))).sum(-2) for s in (p, q)) / 2


def _relabelled(
    pooled: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, "p n"], *, bins: int = 10, smoothing: float = 0.5
) -> Float[np.ndarray, "p"]:
    return pooled_divergences(pooled, labels, _divergence, bins=bins, smoothing=smoothing).mean(1)


@two_sample(identical=0.0, relabelled=_relabelled)
def js_divergence(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], *, bins: int = 10, smoothing: float = 0.5) -> PerFeature:
    """Mean over features of the Jensen-Shannon divergence, in nats, in [0, ln 2]; symmetric.

    Half KL(x || mixture) plus half KL(y || mixture), the mixture with equal weights at any n (Lin, 1991). Shares of `bins` bins between
    quantiles of the pooled rows, `smoothing` added to every count of a bin that is not empty in both; with smoothing 0 samples that
    share no bin give ln 2. Invariant to any increasing map of a feature; sees each feature alone.

    Biased upwards: two samples of one distribution give about (bins - 1) / 8 (1/n + 1/m), 0.011 at n = m = 200, so unequal n raise it.
    Compare values at equal n, or with their permutation null.
    Raises UsageError for fewer than two bins or rows, negative smoothing, unequal widths, NaN or infinity.
    """
    require_pair(x, y, "two_sample")
    found = pooled_divergences(np.concatenate([x, y]), observed(len(x), len(y)), _divergence, bins=bins, smoothing=smoothing)
    return per_feature(found[0])
