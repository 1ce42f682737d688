"""The model is left in training mode, so dropout is on."""

from __future__ import annotations

from harness.faults import Patch
from harness.faults._seams import change_loading

__all__ = ["training_mode"]


def training_mode(patch: Patch) -> None:
    change_loading(patch, lambda adapter: adapter.model.train())
