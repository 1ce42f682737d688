"""A decoder runs without its causal mask: every token sees the ones after it."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array

__all__ = ["mask_not_causal"]


def mask_not_causal(patch: Patch) -> None:
    import torch
    from transformers.models.llama import modeling_llama

    from harness.adapters import _prismatic, openvla

    def allowed(mask: Array) -> Array:
        return mask[:, None, None, :].bool().expand(-1, -1, mask.shape[1], -1)

    def bias(*, inputs_embeds: Array, attention_mask: Array | None, **_: object) -> Array | None:
        if attention_mask is None or attention_mask.ndim == 4:
            return attention_mask
        return torch.where(allowed(attention_mask), 0.0, torch.finfo(inputs_embeds.dtype).min)

    for module in (_prismatic, openvla):
        patch(module, "attention_allowed", allowed)
    patch(modeling_llama, "create_causal_mask", bias)
