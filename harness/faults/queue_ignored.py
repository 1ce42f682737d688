"""A policy runs its model for every action, although it still has some of the last chunk."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array, Batch

__all__ = ["queue_ignored"]


def queue_ignored(patch: Patch) -> None:
    from harness.adapters.lerobot_pi0 import LerobotPI0

    step = LerobotPI0.step

    def afresh(self: LerobotPI0, batch: Batch) -> dict[str, Array]:
        self.reset()
        return step(self, batch)

    patch(LerobotPI0, "step", afresh)
