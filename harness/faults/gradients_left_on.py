"""Capture turns gradients on for the parameters and forgets them so."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["gradients_left_on"]


def gradients_left_on(patch: Patch) -> None:
    from harness.adapters._torch import Capture

    original = Capture._remove

    def remove(self: Capture) -> None:
        original(self)
        self._model.requires_grad_(not next(self._model.parameters()).requires_grad)

    patch(Capture, "_remove", remove)
