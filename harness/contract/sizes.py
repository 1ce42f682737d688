"""Are depth, width and sequence what the source documents say?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.errors import UnknownNameError
from harness.types import Measurement, Recording

__all__ = ["sizes"]


def sizes(adapter: Adapter, recording: Recording, *, of: str, point: str) -> Measurement:
    """One size, read off what a forward really gives at `point`: `width`, `tokens`, a span's length (`image.0`), or `depth`.

    `depth` is the number of blocks of the point's stack that put something out.
    """
    place = adapter.resolve(point)
    blocks = [other for other in adapter.clauses if other.stack == place.stack and other.stream == "output" and other.layer is not None]
    shape = tuple(recording.values[place].shape)
    found = {"depth": len(recording.values.keys() & set(blocks)), "width": shape[2], "tokens": shape[1]}
    found |= {name: int(span[0].sum()) for name, span in recording.batch.tokens[place.stack].spans.items()}
    if of not in found:
        raise UnknownNameError("size", of, found)
    return Measurement(found[of], detail=f"{place} is {shape}")
