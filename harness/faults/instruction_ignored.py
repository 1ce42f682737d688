"""Every sample is given the same instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_loading
from harness.types import Batch, Sample

__all__ = ["instruction_ignored"]


def instruction_ignored(patch: Patch) -> None:
    def spoil(adapter: Adapter) -> None:
        original = adapter.encode

        def encode(samples: Sequence[Sample]) -> Batch:
            return original([replace(sample, instruction="do the task") for sample in samples])

        adapter.encode = encode  # type: ignore[method-assign]

    change_loading(patch, spoil)
