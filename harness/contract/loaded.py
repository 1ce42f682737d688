"""Is every parameter of the loaded model the checkpoint's own?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.types import Measurement

__all__ = ["loaded"]


def loaded(adapter: Adapter) -> Measurement:
    """How many parameters differ from the checkpoint's files: 0 when nothing was left at its initial value."""
    unlike = adapter.unlike_checkpoint()
    return Measurement(len(unlike), detail=f"first of them: {', '.join(unlike[:3])}" if unlike else "every parameter compared with its file")
