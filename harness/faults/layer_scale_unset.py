"""A non-strict load leaves DINOv2's LayerScale at its initial 1e-5."""

from __future__ import annotations

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_model

__all__ = ["layer_scale_unset"]


def layer_scale_unset(patch: Patch) -> None:
    def spoil(adapter: Adapter) -> None:
        for name, parameter in adapter.model.named_parameters():
            if name.endswith("lambda1") and not parameter.is_meta:
                parameter.fill_(1e-5)

    change_model(patch, spoil)
