"""Is the final-norm point the norm of the raw last block?"""

from __future__ import annotations

import numpy as np

from harness.adapters import Adapter, Norm
from harness.contract._compare import host, relative_difference
from harness.types import Measurement, Point, Recording

__all__ = ["post_norm"]


def post_norm(adapter: Adapter, recording: Recording) -> Measurement:
    """Largest relative difference, over stacks, between `final_norm` and the norm recomputed in float64 from the raw last block."""
    differences = {}
    for stack in adapter.stacks():
        last, final = adapter.resolve(Point(stack, "output", -1)), Point(stack, "final_norm")
        normed = _normed(host(recording.values[last]), adapter.final_norm(stack))
        differences[stack] = relative_difference(recording.values[final], normed)
    worst = max(differences, key=differences.__getitem__)
    return Measurement(differences[worst], detail=f"stack {worst}")


def _normed(x: np.ndarray, norm: Norm) -> np.ndarray:
    """RMSNorm (Zhang and Sennrich, 2019, eq. 4) or LayerNorm (Ba et al., 2016, eq. 4) over the last axis."""
    centred = x - x.mean(-1, keepdims=True) if norm.kind == "layer" else x
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps) * host(norm.weight)
    return scaled if norm.bias is None else scaled + host(norm.bias)
