"""How far do features move when the weights are rounded to half precision?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness import subjects
from harness.adapters import Adapter
from harness.contract._compare import worst_row_difference
from harness.types import Measurement, Sample

__all__ = ["precision"]


def precision(adapter: Adapter, samples: Sequence[Sample], *, dtype: str = "bfloat16") -> Measurement:
    """Largest relative difference of mean rows, over the last point of every stack, between `dtype` and the adapter's own dtype."""
    difference, point = worst_row_difference(subjects.load(adapter.subject, replace(adapter.runtime, dtype=dtype)), adapter, samples)
    return Measurement(difference, detail=f"{dtype} against {adapter.runtime.dtype}, worst at {point}")
