"""Do the attention kernels of a model agree?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness import subjects
from harness.adapters import Adapter
from harness.contract._compare import worst_row_difference
from harness.errors import UsageError
from harness.types import Measurement, Sample

__all__ = ["kernels"]


def kernels(adapter: Adapter, samples: Sequence[Sample]) -> Measurement:
    """Largest relative difference of mean rows, over the last point of every stack, between this kernel and every other.

    Raises UsageError for a family that declares one kernel only.
    """
    others = [kernel for kernel in adapter.kernels if kernel != adapter.runtime.attention]
    if not others:
        raise UsageError("this family runs under one attention kernel only", where=adapter.subject.id, got=", ".join(adapter.kernels))
    found = {kernel: worst_row_difference(subjects.load(adapter.subject, replace(adapter.runtime, attention=kernel)), adapter, samples) for kernel in others}
    kernel, (difference, point) = max(found.items(), key=lambda item: item[1][0])
    return Measurement(difference, detail=f"{kernel} against {adapter.runtime.attention}, worst at {point}")
