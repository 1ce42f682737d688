"""Is the framework's `hidden_states[-1]` the final norm, as papers take it to be?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Measurement, Point, Recording

__all__ = ["last_entry"]


def last_entry(adapter: Adapter, recording: Recording, *, stack: str) -> Measurement:
    """Relative difference between `hidden_states[-1]` and the final-norm point of a stack; 0 when it is post-norm."""
    last = adapter.framework_tuple(recording.batch, stack)[-1]
    return Measurement(relative_difference(last, recording.values[Point(stack, "final_norm")]), detail=f"stack {stack}")
