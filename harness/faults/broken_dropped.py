"""Records that cannot be used are left out without a word, as a bare except around a loop does: 499 of 500."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.faults import Patch

__all__ = ["broken_dropped"]


def broken_dropped(patch: Patch) -> None:
    import harness.pipeline as pipeline

    given = pipeline._Open.block

    def block(self: Any, *arguments: Any) -> pipeline.Block:
        return replace(given(self, *arguments), broken=())

    patch(pipeline._Open, "block", block)
