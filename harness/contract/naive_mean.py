"""How far does a mean over all positions lie from the mean over valid tokens?"""

from __future__ import annotations

import numpy as np

from harness import pooling
from harness.adapters import Adapter
from harness.contract._compare import host, relative_difference
from harness.types import Measurement, Recording

__all__ = ["naive_mean"]


def naive_mean(adapter: Adapter, recording: Recording, *, point: str) -> Measurement:
    """Relative difference, per sample, between the plain mean over positions and the pooled mean: 0 when padding does not count.

    The bounds are the least and the most diluted sample.
    """
    place = adapter.resolve(point)
    values, tokens = host(recording.values[place]), recording.batch.tokens[place.stack]
    pooled = pooling.pool(values, host(pooling.token_weights("mean", tokens)))
    found = [relative_difference(plain, masked) for plain, masked in zip(values.mean(1), pooled, strict=True)]
    valid = host(tokens.mask).mean()
    return Measurement(float(np.median(found)), min(found), max(found), detail=f"{place}: {100 * valid:.0f} % of the positions are valid")
