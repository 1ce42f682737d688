"""Summary statistics of one feature set: moments, quantiles, dead and outlying features."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError

__all__ = ["summary"]

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
OUTLIER = 6.0  # times the median magnitude over features, as for massive activations (Sun et al., 2024)


def summary(x: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """Statistics over all entries of `x`, computed in float64; units are those of the features.

    `dead` counts features that are constant over samples, `outlying` those whose mean magnitude exceeds six times the
    median one, `row_norm` is the mean Euclidean norm, `spread` the root of the mean variance over samples.
    Raises UsageError for an empty array or one that holds NaN or infinity.
    """
    if x.size == 0:
        raise UsageError("there is nothing to summarise", got=f"shape {x.shape}")
    if not np.isfinite(x).all():
        raise UsageError("the features hold NaN or infinity", got=f"{(~np.isfinite(x).all(1)).sum()} of {len(x)} rows", expected="finite rows")
    values = x.astype(np.float64)
    magnitude = np.abs(values).mean(0)
    quantiles = np.quantile(values, QUANTILES)
    return {
        "n": float(len(values)),
        "d": float(values.shape[1]),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        **{f"q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "row_norm": float(np.linalg.norm(values, axis=1).mean()),
        "spread": float(np.sqrt(values.var(0).mean())),
        "dead": float((np.ptp(values, axis=0) == 0).sum()),
        "outlying": float((magnitude > OUTLIER * np.median(magnitude)).sum()),
    }
