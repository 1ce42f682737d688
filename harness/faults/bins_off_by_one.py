"""Action tokens are counted from one bin too far."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["bins_off_by_one"]


def bins_off_by_one(patch: Patch) -> None:
    from harness.adapters import openvla

    original = openvla.decode_actions
    patch(openvla, "decode_actions", lambda ids, *options: original([token - 1 for token in ids], *options))
