"""Can later words reach earlier positions?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.adapters import Adapter
from harness.contract._compare import host
from harness.types import Measurement, Point, Sample

__all__ = ["causality"]


def causality(adapter: Adapter, samples: Sequence[Sample]) -> Measurement:
    """Largest relative change before the first differing position when words are appended to the instruction: 0 if causal."""
    stack = adapter.stacks()[-1]
    entry, deep = adapter.resolve(Point(stack, "input", 0)), Point(stack, "final_norm")
    worst, shared = 0.0, 0
    for sample in samples:
        pair = [replace(sample, instruction=f"{sample.instruction}{suffix}") for suffix in ("", " and then open the drawer")]
        (first, first_deep), (second, second_deep) = (
            [host(values)[0] for values in (captured[entry], captured[deep])]
            for captured in (adapter.capture(adapter.encode([changed]), [entry, deep]) for changed in pair)
        )
        length = min(len(first), len(second))
        same = (np.abs(first[:length] - second[:length]).max(-1) <= 1e-6 * np.abs(first).max()).cumprod().sum()
        worst = max(worst, float(np.abs(first_deep[:same] - second_deep[:same]).max(initial=0.0) / np.abs(first_deep).max()))
        shared += int(same)
    return Measurement(worst, detail=f"{shared} leading positions shared by {len(samples)} pairs")
