"""Does an output of the model have the shape that a document gives it?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapters import Adapter
from harness.errors import UnknownNameError
from harness.types import Measurement, Sample

__all__ = ["output_shape"]


def output_shape(adapter: Adapter, samples: Sequence[Sample], *, output: str) -> Measurement:
    """Shape of a named output of one forward of the first sample, as upstream's code gives it. Raises UnknownNameError."""
    outputs = adapter.forward(adapter.encode(samples[:1]))
    if output not in outputs:
        raise UnknownNameError("output", output, outputs, where=adapter.subject.id)
    return Measurement(list(outputs[output].shape), detail=f"{output} of one sample")
