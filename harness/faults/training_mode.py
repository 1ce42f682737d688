"""A mock model is left in training mode, so its dropout is on."""

from __future__ import annotations

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_model

__all__ = ["training_mode"]


def training_mode(patch: Patch) -> None:
    def spoil(adapter: Adapter) -> None:
        if adapter.subject.scale == "mock":  # the mocks carry dropout; of the real models only the probe's target encoder does
            adapter.model.train()

    change_model(patch, spoil)
