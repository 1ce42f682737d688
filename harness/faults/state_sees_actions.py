"""The state token attends to the noisy actions, and so differs from one denoise step to the next."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array

__all__ = ["state_sees_actions"]


def state_sees_actions(patch: Patch) -> None:
    from jax import numpy as jnp

    from harness.adapters import _lerobot_network, _openpi_sampler

    original = _lerobot_network.suffix_attention

    def attention(pad_mask: Array, length: int) -> Array:
        allowed = original(pad_mask, length).clone()
        allowed[:, 0] = allowed[:, -1]
        return allowed

    def begins(horizon: int, *, state: bool) -> Array:
        return jnp.array([True, *[False] * (horizon - 1 + state)])

    patch(_lerobot_network, "suffix_attention", attention)
    patch(_openpi_sampler, "begins", begins)
