"""RoboVLMs' action head is reset before every step, so it never remembers the episode."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array, Batch

__all__ = ["head_forgets"]


def head_forgets(patch: Patch) -> None:
    from harness.adapters.robovlms import RoboVLMs

    original = RoboVLMs.step

    def step(self: RoboVLMs, batch: Batch) -> dict[str, Array]:
        self.reset()
        return original(self, batch)

    patch(RoboVLMs, "step", step)
