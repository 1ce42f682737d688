"""A non-strict load leaves the language blocks at random values."""

from __future__ import annotations

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_model

__all__ = ["weights_left_random"]


def weights_left_random(patch: Patch) -> None:
    import torch

    def spoil(adapter: Adapter) -> None:
        if adapter.subject.weights.directory is None:
            return
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapter.model.named_parameters():
            if ("layers." in name or "layer." in name) and parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.04)

    change_model(patch, spoil)
