"""The robot's state is written into the prompt of a model that was trained without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_loading
from harness.types import Batch, Sample

__all__ = ["state_in_prompt"]


def state_in_prompt(patch: Patch) -> None:
    def told(sample: Sample) -> Sample:
        if sample.state is None:
            return sample
        digits = round(1000 * abs(float(sample.state.sum())))  # one word: longer ones do not fit the prompts of small models
        return replace(sample, instruction=f"{sample.instruction} {digits}")

    def spoil(adapter: Adapter) -> None:
        original = adapter.encode

        def encode(samples: Sequence[Sample]) -> Batch:
            return original([told(sample) for sample in samples])

        adapter.encode = encode  # type: ignore[method-assign]

    change_loading(patch, spoil)
