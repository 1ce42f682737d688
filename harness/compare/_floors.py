"""The noise floor of every place of a comparison: measured where the models are here, else that of their dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.compare._sides import Place, Side
from harness.memo import Memo
from harness.noise import EQUAL, noise_floor
from harness.store import Store
from harness.types import Sample

__all__ = ["Floors", "noise_floors"]

SAMPLES = 16  # a floor is a root mean square over all features of so many rows
# Of features whose model is not here: about the largest of what the models measured so far show (float32 1e-7 to 9e-6, bfloat16 2e-3 to 1e-1 with a
# median of 3e-2; float16 keeps three more bits).
UNMEASURED: Mapping[str, float] = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


class Floors(NamedTuple):
    """By place, as a fraction of the spread over samples; and where they come from."""

    of: Mapping[Place, float]
    told: str


def noise_floors(first: Side, second: Side, places: Sequence[Place], samples: Mapping[str, Sample], store: Store, tell: Callable[[str], None]) -> Floors:
    """Of the first side, or of the one in float32 where the dtypes differ: bfloat16 then counts as noise. Kept below the store."""
    if first.adapter is None or second.adapter is None:
        dtype = max((key.dtype for side in (first, second) for key in side.keys.values()), key=lambda name: UNMEASURED[name])
        return Floors(dict.fromkeys(places, UNMEASURED[dtype]), f"not measured, because no model was loaded: {UNMEASURED[dtype]:g} of the spread, for {dtype}")
    mixed = first.adapter.runtime.dtype != second.adapter.runtime.dtype
    side = second if mixed and second.adapter.runtime.dtype == "float32" else first
    adapter, shown, floors = side.adapter, _few(samples), {}
    memo = Memo(store.root / "measurements") if isinstance(store.root, Path) else None
    for pooling in dict.fromkeys(place.pooling for place in places):
        tell(f"noise floor of {side.name}, pooled by {pooling}")
        points = [place.point for place in places if place.pooling == pooling]
        measure = partial(noise_floor, adapter.subject, adapter.runtime, shown, points, pooling=pooling, adapter=lambda: adapter, memo=memo)
        found = measure(axes=EQUAL)
        rounded = measure(axes=("dtype",)) if mixed else None  # apart, so that the rest is kept once for all comparisons of this model
        for point in points:
            rounding = rounded.dtype(point) if rounded else None
            floors[Place(point, pooling)] = max(found.of(point), rounding.value if rounding else 0.0)
    axes = "repeat, batch size, padding, attention kernel, threads" + (", and bfloat16 weights because the dtypes differ" if mixed else "")
    return Floors(floors, f"measured on {len(shown)} samples of {side.name}: the largest of {axes}")


def _few(samples: Mapping[str, Sample]) -> list[Sample]:
    chosen = list(samples.values())
    return [chosen[index] for index in np.linspace(0, len(chosen) - 1, min(SAMPLES, len(chosen))).astype(int)]
