"""SigLIP runs with transformers' default tanh GELU instead of the exact one it was trained with."""

from __future__ import annotations

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_model

__all__ = ["tanh_gelu"]


def tanh_gelu(patch: Patch) -> None:
    from torch import nn

    def spoil(adapter: Adapter) -> None:
        for module in adapter.model.modules():
            if type(module).__name__ == "SiglipMLP":
                module.activation_fn = nn.GELU(approximate="tanh").eval()

    change_model(patch, spoil)
