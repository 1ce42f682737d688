"""Does the noise that a sampler starts from reach a point?"""

from __future__ import annotations

from harness.adapters import Adapter
from harness.contract._compare import relative_difference
from harness.types import Measurement, Recording

__all__ = ["noise_use"]


def noise_use(adapter: Adapter, recording: Recording, *, point: str) -> Measurement:
    """Relative change of a point when the noise given to the sampler has the other sign: 0 when the sampler's side never reaches it."""
    place, batch = adapter.resolve(point), recording.batch
    other = adapter.capture(batch.with_inputs(noise=-batch.inputs["noise"]), [place])[place]
    return Measurement(relative_difference(other, recording.values[place]), detail=str(place))
