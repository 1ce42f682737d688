"""A hook stays on the model when the capture is over."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["hook_left_behind"]


def hook_left_behind(patch: Patch) -> None:
    from harness.adapters._torch import Capture

    original = Capture._remove

    def remove(self: Capture) -> None:
        original(self)
        self._model.register_forward_hook(lambda *_: None)

    patch(Capture, "_remove", remove)
