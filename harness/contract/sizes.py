"""Are depth, width and sequence what the source documents say?"""

from __future__ import annotations

from harness.adapters._base import Adapter
from harness.errors import UnknownNameError
from harness.types import Batch, Measurement, Point

__all__ = ["sizes"]


def sizes(adapter: Adapter, batch: Batch, *, of: str, stack: str) -> Measurement:
    """One size of a stack, read off what a forward really gives: `depth`, `width`, `tokens`, or a span's length (`image.0`)."""
    blocks = [point for point in adapter.clauses if point.stack == stack and point.stream == "output" and point.layer is not None]
    probe: Point = blocks[-1] if blocks else next(point for point in adapter.clauses if point.stack == stack)
    captured = adapter.capture(batch, blocks or [probe])
    shape = tuple(captured[probe].shape)
    found = {"depth": len({point.layer for point in captured}), "width": shape[2], "tokens": shape[1]}
    found |= {name: int(span[0].sum()) for name, span in batch.tokens[stack].spans.items()}
    if of not in found:
        raise UnknownNameError("size", of, found)
    return Measurement(found[of], detail=f"{probe} is {shape}")
