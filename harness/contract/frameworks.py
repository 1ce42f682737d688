"""Do several frameworks compute the same from the same weights, and where do they begin not to?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from harness import registry, subjects
from harness.adapters import Adapter
from harness.contract._compare import host, relative_difference
from harness.errors import ContractError
from harness.types import Array, Batch, Measurement, Point, Sample

__all__ = ["frameworks"]

ROUNDING = 1 + 2.0**-22  # moves a float32 by its last two bits


def frameworks(adapter: Adapter, samples: Sequence[Sample], *, families: Sequence[str], limit: float) -> Measurement:
    """Largest difference between this family and others on the same weights, in multiples of the noise floor.

    The checkpoint is converted to every other of `families` and loaded there. Every point that both have is compared on valid
    positions, and the sampled actions are, on pictures of the model's own size with the same noise. The noise floor of a point is
    how far it moves in this family when all inputs move in their last bits. The detail names the first point, in the order of the
    network, that leaves the floor by more than `limit`. Raises ContractError when two families share no point.
    """
    shown = [_resized(sample, adapter.picture_size) for sample in samples]
    batch = adapter.encode(shown)
    reference = _valid(adapter, batch)
    nudged = _valid(adapter, batch.with_inputs(**{name: x * ROUNDING for name, x in batch.inputs.items() if _is_float(x)}))
    floor = {name: relative_difference(nudged[name], value) for name, value in reference.items()}
    worst, details = 0.0, []
    for family in (family for family in families if family != adapter.subject.family):
        with TemporaryDirectory() as folder:
            other = _converted(adapter, family, Path(folder) / family)
            theirs = other.encode(shown)
            noise = host(batch.inputs["noise"]).astype(np.float32)
            found = _valid(other, theirs.with_inputs(noise=_like(theirs.inputs["noise"], noise)))
        shared = [name for name in reference if name in found]
        if len(shared) < 2:
            raise ContractError(f"{family} has no point of {adapter.subject.family}", where=adapter.subject.id, got=", ".join(map(str, found))[:200])
        difference = {name: relative_difference(found[name], reference[name]) for name in shared}
        floors = {name: difference[name] / max(floor[name], float(np.finfo(np.float32).eps)) for name in shared}
        most = max(floors, key=floors.__getitem__)
        beyond = next((str(name) for name in shared if floors[name] > limit), "none")
        worst = max(worst, floors[most])
        details.append(f"{family}: {len(shared)} points, most at {most} ({floors[most]:.1f} floors, {difference[most]:.1e}), first beyond {limit:.0f} floors: {beyond}")
    return Measurement(worst, detail="; ".join(details))


def _resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample with pictures (height, width) that no family has to resize."""
    return replace(sample, images={name: np.array(Image.fromarray(picture).resize(size[::-1])) for name, picture in sample.images.items()})


def _converted(adapter: Adapter, family: str, destination: Path) -> Adapter:
    registry.load("converters", family)(adapter.subject.weights.directory, destination)
    subject = subjects.resolve(f"{family}:checkpoint", checkpoint=destination)
    options = {**subject.options, "cameras": list(adapter.cameras)}
    return subjects.load(replace(subject, options=options), adapter.runtime)


def _valid(adapter: Adapter, batch: Batch) -> dict[Point | str, np.ndarray]:
    """Every point at its valid positions, one row of tokens after the other, and the actions."""
    masks = {stack: host(tokens.mask).astype(bool) for stack, tokens in batch.tokens.items()}
    values = adapter.capture(batch, adapter.clauses)
    found: dict[Point | str, np.ndarray] = {point: host(value)[masks[point.stack]] for point, value in values.items()}
    return {**found, "actions": host(adapter.forward(batch)["actions"])}


def _is_float(x: Array) -> bool:
    return "float" in str(getattr(x, "dtype", ""))


def _like(x: Array, values: np.ndarray) -> Array:
    return x.new_tensor(values) if hasattr(x, "new_tensor") else values
