"""Gemma's RMSNorm with the scale of every token as a module of its own, so that a capture can see it."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaModel, GemmaRMSNorm

__all__ = ["ScaledRMSNorm", "with_visible_scales"]


@final
class InverseRMS(nn.Module):
    """1/rms of every token, (n, t, 1), in float32."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t 1"]:
        return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


@final
class ScaledRMSNorm(GemmaRMSNorm):
    """Bitwise transformers' own norm; `scale` puts out what it multiplies every token with before the learned weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, eps)
        self.scale = InverseRMS(eps)

    def _norm(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return x * self.scale(x)


def with_visible_scales(model: GemmaModel) -> GemmaModel:
    """`model` itself, its norms replaced by `ScaledRMSNorm` of the same dtype, not yet with their weights."""
    for name, norm in [(name, module) for name, module in model.named_modules() if isinstance(module, GemmaRMSNorm)]:
        model.set_submodule(name, ScaledRMSNorm(len(norm.weight), norm.eps).to(norm.weight.dtype))
    return model
