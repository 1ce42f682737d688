"""What does sampling actions cost beside the prefill alone?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapters import Adapter
from harness.types import Measurement, Point, Sample

__all__ = ["sampling_cost"]


def sampling_cost(adapter: Adapter, samples: Sequence[Sample]) -> Measurement:
    """Floating-point operations of one sample's whole forward over those of a capture that ends with the prefill; at least 1.

    Counted by torch on the matrix products, so that neither the machine nor its load matters; shapes are enough for it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    batch, counts = adapter.encode(samples[:1]), []
    for run in (lambda: adapter.forward(batch), lambda: adapter.capture(batch, [Point("lm", "final_norm")])):
        with FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops())
    whole, prefill = counts
    return Measurement(whole / prefill, detail=f"{whole / 1e9:.4g} against {prefill / 1e9:.4g} billion operations")
