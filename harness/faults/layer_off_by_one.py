"""Every block's point reads the block before it: layers counted from one."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.faults import Patch
from harness.faults._seams import move_hooks
from harness.types import Clause, Point

__all__ = ["layer_off_by_one"]


def layer_off_by_one(patch: Patch) -> None:
    def moved(point: Point, clause: Clause) -> Clause:
        before = re.sub(r"(.*\.)(\d+)", lambda match: f"{match[1]}{int(match[2]) - 1}", clause.module, count=1)
        return replace(clause, module=before) if point.layer else clause

    move_hooks(patch, moved)
