"""Is the framework's `hidden_states[-1]` the final norm, as papers take it to be?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Batch, Measurement, Point

__all__ = ["last_entry"]


def last_entry(adapter: Adapter, batch: Batch) -> Measurement:
    """Relative difference between `hidden_states[-1]` and the final-norm point of the first stack; 0 when it is post-norm."""
    stack = adapter.stacks()[0]
    final = Point(stack, "final_norm")
    return Measurement(relative_difference(adapter.framework_tuple(batch, stack)[-1], adapter.capture(batch, [final])[final]), detail=f"stack {stack}")
