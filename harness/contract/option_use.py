"""Does an option of a model card reach the features?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness import subjects
from harness.adapters import Adapter
from harness.contract._compare import worst_row_difference
from harness.types import Measurement, Sample

__all__ = ["option_use"]


def option_use(adapter: Adapter, samples: Sequence[Sample], *, option: str, value: str) -> Measurement:
    """Largest relative change of mean rows, over the last point of every stack, when a card's option has another value."""
    other = replace(adapter.subject, options={**adapter.subject.options, option: value})
    moved, point = worst_row_difference(subjects.load(other, adapter.runtime), adapter, samples)
    return Measurement(moved, detail=f"{option} {value!r} instead of {adapter.subject.options.get(option)!r}, most at {point}")
