"""Does an output depend on what a stateful model saw before?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Measurement, Sample

__all__ = ["history"]


def history(adapter: Adapter, samples: Sequence[Sample], *, output: str) -> Measurement:
    """Relative change of an output of a streaming step when another step was made before it without a reset."""
    first, second = (adapter.encode([sample]) for sample in samples[:2])
    adapter.reset()
    fresh = adapter.step(second)[output]
    adapter.reset()
    adapter.step(first)
    carried = adapter.step(second)[output]
    adapter.reset()
    return Measurement(relative_difference(carried, fresh), detail=f"{output} after another sample's step, against the same step alone")
