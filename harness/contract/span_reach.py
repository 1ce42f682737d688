"""Are the tokens of the image where the span map says: does a changed image move them, and no others?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.adapters import Adapter
from harness.contract._changes import CHANGES
from harness.contract._compare import host
from harness.types import Measurement, Point, Sample

__all__ = ["span_reach"]


def span_reach(adapter: Adapter, samples: Sequence[Sample], *, seed: int = 0) -> Measurement:
    """How many positions contradict the span map when the image is replaced: 0 when the map is right.

    At the input of a stack's first block exactly the positions of `image.0` move.
    """
    altered = CHANGES["noise image"](samples, np.random.default_rng(seed))
    batches = adapter.encode(samples), adapter.encode(altered)
    stacks = [stack for stack in adapter.stacks() if "image.0" in batches[0].tokens[stack].spans]
    wrong, positions = [], 0
    for stack in stacks:
        entry = adapter.resolve(Point(stack, "input", 0))
        before, after = (host(adapter.capture(batch, [entry])[entry]) for batch in batches)
        moved = np.abs(after - before).max(-1) > 1e-6 * np.abs(before).max()
        expected = host(batches[0].tokens[stack].spans["image.0"]).astype(bool)
        valid = host(batches[0].tokens[stack].mask).astype(bool)
        wrong.append(int(((moved != expected) & valid).sum()))
        positions += int(valid.sum())
    return Measurement(sum(wrong), detail=f"of {positions} valid positions in {', '.join(stacks)}")
