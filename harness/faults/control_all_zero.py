"""The untrained control network is made of zeros, so anything beats it."""

from __future__ import annotations

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_loading

__all__ = ["control_all_zero"]


def control_all_zero(patch: Patch) -> None:
    def spoil(adapter: Adapter) -> None:
        if adapter.subject.scale == "random":
            for parameter in adapter.model.parameters():
                parameter.zero_()

    change_loading(patch, spoil)
