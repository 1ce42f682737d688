"""What shape has an array of all blocks of a stack, as documents write it down?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapters import Adapter
from harness.contract._compare import host
from harness.errors import UnknownNameError
from harness.types import Measurement, Sample

__all__ = ["stack_shape"]


def stack_shape(adapter: Adapter, samples: Sequence[Sample], *, stack: str, step: int | None = None, since: str | None = None) -> Measurement:
    """Shape [blocks, 1, tokens, width] of one sample's block outputs stacked; of a denoise `step` where the stack has several.

    `since` counts only the tokens from the first one of that span on. Raises UnknownNameError for a stack that does not run so.
    """
    points = [point for point in adapter.clauses if (point.stack, point.step, point.stream) == (stack, step, "output") and point.layer is not None]
    if not points:
        raise UnknownNameError("stack and step", f"{stack} {step}", sorted({f"{point.stack} {point.step}" for point in adapter.clauses}), where=adapter.subject.id)
    batch = adapter.encode(samples[:1])
    shapes = {tuple(value.shape) for value in adapter.capture(batch, points).values()}
    (rows, tokens, width) = max(shapes)
    if since is not None:
        tokens -= int(host(batch.tokens[stack].spans[since])[0].argmax())
    same = "all alike" if len(shapes) == 1 else f"unlike: {sorted(shapes)}"
    return Measurement([len(points) if len(shapes) == 1 else 0, rows, tokens, width], detail=f"{points[0]} to {points[-1]}, {same}")
