"""Capture leaves the model's own flag in training mode, its parts in evaluation mode."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["training_flag_left"]


def training_flag_left(patch: Patch) -> None:
    from harness.adapters._torch import Capture

    original = Capture._remove

    def remove(self: Capture) -> None:
        original(self)
        self._model.training = True

    patch(Capture, "_remove", remove)
