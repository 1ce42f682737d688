"""Is the input of every block the output of the block before it?"""

from __future__ import annotations

from dataclasses import replace

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Measurement, Recording

__all__ = ["residual_chain"]


def residual_chain(adapter: Adapter, recording: Recording) -> Measurement:
    """Largest relative difference between `NN.output` and the next block's input, captured in one forward; 0 is bitwise equal."""
    captured = recording.values
    following = {point: replace(point, stream="input", layer=point.layer + 1) for point in captured if point.layer is not None and point.stream == "output"}
    links = {point: after for point, after in following.items() if after in captured and adapter.clauses[after].continues}
    found = {point: relative_difference(captured[after], captured[point]) for point, after in links.items()}
    worst = max(found, key=found.__getitem__)
    return Measurement(found[worst], detail=f"worst of {len(found)} links: {worst}")
