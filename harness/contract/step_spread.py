"""Do tokens change from one denoise step to the next?"""

from __future__ import annotations

from dataclasses import replace

from harness.adapters import Adapter
from harness.contract._compare import host, relative_difference
from harness.errors import UsageError
from harness.types import Measurement, Recording

__all__ = ["step_spread"]


def step_spread(adapter: Adapter, recording: Recording, *, stack: str, span: str) -> Measurement:
    """Relative change of a span's block outputs between the first denoise step and the others: 0 when every step gives the same.

    The bounds are the smallest and the largest change over steps and blocks. Raises UsageError for a stack that has no steps.
    """
    first = [point for point in adapter.clauses if (point.stack, point.step, point.stream) == (stack, 0, "output") and point.layer is not None]
    steps = sorted({point.step for point in adapter.clauses if point.stack == stack and point.step})
    if not first or not steps:
        raise UsageError(f"stack {stack!r} does not run in several denoise steps", where=adapter.subject.id, got=", ".join(adapter.stacks()))
    chosen = host(recording.batch.tokens[stack].spans[span]).astype(bool)
    rows = {point: host(recording.values[point])[chosen] for one in first for point in (one, *(replace(one, step=step) for step in steps))}
    found = {point: relative_difference(rows[point], rows[replace(point, step=0)]) for point in rows if point.step}
    worst = max(found, key=found.__getitem__)
    return Measurement(found[worst], min(found.values()), found[worst], detail=f"{span} over {1 + len(steps)} steps and {len(first)} blocks, most at {worst}")
