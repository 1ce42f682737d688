"""Is the final-norm point the norm of the raw last block?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.adapters import Adapter, Norm
from harness.contract._compare import host, relative_difference
from harness.types import Measurement, Point, Recording

__all__ = ["post_norm"]


def post_norm(adapter: Adapter, recording: Recording) -> Measurement:
    """Largest relative difference, over stacks and steps, between `final_norm` and the norm recomputed in float64 from the raw last block."""
    differences = {}
    for final in (point for point in adapter.clauses if point.stream == "final_norm"):
        last = adapter.resolve(replace(final, stream="output", layer=-1))
        normed = _normed(host(recording.values[last]), adapter.final_norm(final))
        differences[final] = relative_difference(recording.values[final], normed)
    worst: Point = max(differences, key=differences.__getitem__)
    return Measurement(differences[worst], detail=f"worst of {len(differences)}: {worst}")


def _normed(x: np.ndarray, norm: Norm) -> np.ndarray:
    """RMSNorm (Zhang and Sennrich, 2019, eq. 4) or LayerNorm (Ba et al., 2016, eq. 4) over the last axis."""
    centred = x - x.mean(-1, keepdims=True) if norm.kind == "layer" else x
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps) * host(norm.weight)
    return scaled if norm.bias is None else scaled + host(norm.bias)
