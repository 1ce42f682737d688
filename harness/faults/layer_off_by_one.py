"""Every block's point reads the block before it: layers counted from one."""

from __future__ import annotations

from dataclasses import replace

from harness.faults import Patch
from harness.faults._seams import move_hooks
from harness.types import Clause, Point

__all__ = ["layer_off_by_one"]


def layer_off_by_one(patch: Patch) -> None:
    def moved(point: Point, clause: Clause) -> Clause:
        path, _, index = clause.module.rpartition(".")
        return replace(clause, module=f"{path}.{int(index) - 1}") if point.layer else clause

    move_hooks(patch, moved)
