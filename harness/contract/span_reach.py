"""Are the tokens of every image where the span map says: does a changed picture move them, and no others?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.adapters import Adapter
from harness.contract._changes import noise_from
from harness.contract._compare import host
from harness.errors import ContractError
from harness.types import Measurement, Point, Sample

__all__ = ["span_reach"]


def span_reach(adapter: Adapter, samples: Sequence[Sample], *, seed: int = 0) -> Measurement:
    """How many positions contradict the span map when one camera's picture is replaced: 0 when the map is right.

    At the input of a stack's first block exactly the positions of `image.0` move with the first camera, those of `image.1`
    with the second, and so on; every camera of the model and every stack that has its span is asked.
    """
    batch = adapter.encode(samples)
    wrong, positions, asked = 0, 0, []
    for index, camera in enumerate(adapter.cameras):
        name = f"image.{index}"
        stacks = [stack for stack in adapter.stacks() if name in batch.tokens[stack].spans]
        if not stacks:
            raise ContractError(f"no stack has the span {name} of camera {camera}", where=adapter.subject.id, expected="a span for every camera")
        altered = adapter.encode([*noise_from(camera)(samples, np.random.default_rng(seed))])
        for stack in stacks:
            entry = adapter.resolve(Point(stack, "input", 0))
            before, after = (host(adapter.capture(one, [entry])[entry]) for one in (batch, altered))
            moved = np.abs(after - before).max(-1) > 1e-6 * np.abs(before).max()
            valid = host(batch.tokens[stack].mask).astype(bool)
            wrong += int(((moved != host(batch.tokens[stack].spans[name]).astype(bool)) & valid).sum())
            positions += int(valid.sum())
            asked.append(f"{stack} {name}")
    return Measurement(wrong, detail=f"of {positions} valid positions: {', '.join(asked)}")
