"""Does a family refuse an attention kernel that would change its arithmetic?"""

from __future__ import annotations

from dataclasses import replace

from harness import subjects
from harness.adapters import Adapter
from harness.errors import UsageError
from harness.types import Measurement

__all__ = ["kernel_refused"]


def kernel_refused(adapter: Adapter, *, kernel: str) -> Measurement:
    """Whether loading the model under `kernel` raises a UsageError instead of running something else."""
    try:
        subjects.load(adapter.subject, replace(adapter.runtime, attention=kernel))
    except UsageError as error:
        return Measurement(True, detail=error.what)
    return Measurement(False, detail=f"loaded under {kernel} without a word")
