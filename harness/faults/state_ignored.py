"""Every sample is given the same robot state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_loading
from harness.types import Batch, Sample

__all__ = ["state_ignored"]


def state_ignored(patch: Patch) -> None:
    def spoil(adapter: Adapter) -> None:
        original = adapter.encode

        def encode(samples: Sequence[Sample]) -> Batch:
            return original([sample if sample.state is None else replace(sample, state=np.ones_like(sample.state)) for sample in samples])

        adapter.encode = encode  # type: ignore[method-assign]

    change_loading(patch, spoil)
