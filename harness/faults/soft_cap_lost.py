"""Gemma2 runs without the soft cap of its attention, as under a kernel that does not know it."""

from __future__ import annotations

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_loading

__all__ = ["soft_cap_lost"]


def soft_cap_lost(patch: Patch) -> None:
    from harness.adapters.spatialvla import SpatialVLA

    def spoil(adapter: Adapter) -> None:
        for module in adapter.model.modules():
            if hasattr(module, "attn_logit_softcapping"):
                module.attn_logit_softcapping = None

    change_loading(patch, lambda adapter: spoil(adapter) if isinstance(adapter, SpatialVLA) else None)
    patch(SpatialVLA, "kernels", ("eager", "sdpa"))
