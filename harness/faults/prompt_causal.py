"""SpatialVLA's prompt is masked causally, as the flash attention of its training script has it."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array

__all__ = ["prompt_causal"]


def prompt_causal(patch: Patch) -> None:
    from harness.adapters import _spatialvla

    original = _spatialvla.allowed
    patch(_spatialvla, "allowed", lambda mask, prompt: _causal(original(mask, 0)))


def _causal(allowed: Array) -> Array:
    return allowed & allowed.new_ones(allowed.shape).tril()
