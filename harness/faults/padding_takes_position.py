"""Rotary positions of the prefix count its padding: absent cameras push the words away."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array

__all__ = ["padding_takes_position"]


def padding_takes_position(patch: Patch) -> None:
    import torch
    from jax import numpy as jnp

    from harness.adapters import _lerobot_network, _openpi_sampler

    layout = _openpi_sampler.prefix_layout

    def every(image_mask: Array, prompt_mask: Array, *, patches: int) -> Array:
        made = layout(image_mask, prompt_mask, patches=patches)
        return made._replace(positions=jnp.broadcast_to(jnp.arange(made.valid.shape[1]), made.valid.shape))

    patch(_openpi_sampler, "prefix_layout", every)
    patch(_lerobot_network, "prefix_positions", lambda pad_mask: torch.arange(pad_mask.shape[1], device=pad_mask.device).expand_as(pad_mask))
