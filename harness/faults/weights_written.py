"""Capture writes into a parameter in place, if only to the value it had."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["weights_written"]


def weights_written(patch: Patch) -> None:
    import torch

    from harness.adapters._torch import Capture

    original = Capture._remove

    def remove(self: Capture) -> None:
        original(self)
        with torch.no_grad():
            next(self._model.parameters()).mul_(1.0)

    patch(Capture, "_remove", remove)
