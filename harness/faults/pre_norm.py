"""The final-norm point reads the norm's input: pre-norm taken for post-norm."""

from __future__ import annotations

from dataclasses import replace

from harness.faults import Patch
from harness.faults._seams import move_hooks

__all__ = ["pre_norm"]


def pre_norm(patch: Patch) -> None:
    move_hooks(patch, lambda point, clause: replace(clause, side="input") if point.stream == "final_norm" else clause)
