"""Does a policy run its model when it is asked for the next action?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapters import Adapter
from harness.types import Measurement, Point, Sample

__all__ = ["action_queue"]


def action_queue(adapter: Adapter, samples: Sequence[Sample], *, reset: bool) -> Measurement:
    """How often a hook on the final norm fires in the second of two policy steps, with or without a reset before it."""
    module = adapter.model.get_submodule(adapter.clauses[Point("lm", "final_norm")].module)
    fired: list[int] = []
    first, second = (adapter.encode([sample]) for sample in samples[:2])
    adapter.reset()
    adapter.step(first)
    if reset:
        adapter.reset()
    handle = module.register_forward_hook(lambda *_: fired.append(1))
    try:
        adapter.step(second)
    finally:
        handle.remove()
        adapter.reset()
    return Measurement(len(fired), detail=f"second step of two, {'after' if reset else 'without'} reset()")
