"""Where in a sequence do the named spans begin?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapters import Adapter
from harness.contract._compare import host
from harness.types import Measurement, Sample

__all__ = ["span_starts"]


def span_starts(adapter: Adapter, samples: Sequence[Sample], *, stack: str, spans: Sequence[str]) -> Measurement:
    """The first position of each span in the sequence of a stack, and the sequence's length last, for one sample."""
    tokens = adapter.encode(samples[:1]).tokens[stack]
    starts = [int(host(tokens.spans[name])[0].argmax()) for name in spans]
    return Measurement([*starts, int(tokens.mask.shape[1])], detail=f"{', '.join(spans)} and the end of {stack}")
