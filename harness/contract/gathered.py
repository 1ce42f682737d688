"""Is one point nothing but rows of another?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Measurement, Recording

__all__ = ["gathered"]


def gathered(adapter: Adapter, recording: Recording, *, point: str, of: str, span: str) -> Measurement:
    """Relative difference between `point` and the positions of `span` in `of`, in their order: 0 when it is those rows."""
    part, whole = adapter.resolve(point), adapter.resolve(of)
    rows = recording.values[whole][recording.batch.tokens[whole.stack].spans[span]]
    values = recording.values[part]
    return Measurement(relative_difference(values.reshape(-1, values.shape[-1]), rows), detail=f"{len(rows)} positions of {span} in {whole}")
