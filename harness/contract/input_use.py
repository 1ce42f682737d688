"""Do the inputs that the family declares move the features, and the others not?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.adapters import Adapter
from harness.contract._changes import CHANGES, FIELDS, noise_from
from harness.contract._compare import relative_difference
from harness.errors import UnknownNameError
from harness.extract import pooled
from harness.types import Measurement, Point, Sample

__all__ = ["input_use"]

UNUSED = "every unused input"


def input_use(adapter: Adapter, samples: Sequence[Sample], *, change: str, point: str | None = None, seed: int = 0) -> Measurement:
    """Relative change of a sample's pooled row at `point`, or at the deepest, when one input is replaced: 0 when it is ignored.

    `change` is one of `_changes.CHANGES`, or `every unused input`: all at once that the family declares unused, and pictures
    of cameras that it does not have. The bounds are the smallest and the largest change over samples, so "moves" holds for
    all of them and "does not" for all.
    """
    if change not in (known := [*CHANGES, UNUSED]):
        raise UnknownNameError("change", change, known)
    place: Point = list(adapter.clauses)[-1] if point is None else adapter.resolve(point)
    rng = np.random.default_rng(seed)
    if change == UNUSED:
        names = sorted({name for sample in samples for name in sample.images} - set(adapter.cameras))
        steps = [*(CHANGES[FIELDS[field]] for field in adapter.inputs_unused), *(noise_from(name) for name in names)]
    else:
        steps = [CHANGES[change]]
    changed = samples
    for step in steps:
        changed = step(changed, rng)
    before, after = (pooled(adapter, rows, [place])[place] for rows in (samples, changed))
    moved = [relative_difference(new, old) for new, old in zip(after, before, strict=True)]
    return Measurement(float(np.median(moved)), min(moved), max(moved), detail=f"{change}: median of {len(moved)} samples at {place}")
