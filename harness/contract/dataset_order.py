"""Does reading a dataset again, or in parts, give the same samples in the same order?"""

from __future__ import annotations

from harness import readers
from harness.checkpoints import canonical_digest
from harness.types import Measurement, Sample

__all__ = ["dataset_order"]


def dataset_order(*, dataset: str, parts: list[str]) -> Measurement:
    """How many samples come differently (id, instruction, state, action, pictures or place) in a second reading, or in a reading
    of the split's parts one after the other.
    """
    whole = [_identity(sample) for sample in readers.stream(dataset)]
    again = [_identity(sample) for sample in readers.stream(dataset)]
    cut = [_identity(sample) for part in parts for sample in readers.stream(dataset, options={"split": part})]
    wrong = sum(abs(len(whole) - len(other)) + sum(a != b for a, b in zip(whole, other, strict=False)) for other in (again, cut))
    return Measurement(wrong, detail=f"{len(whole)} samples read twice, and as {' and '.join(parts)}")


def _identity(sample: Sample) -> str:
    arrays = [None if value is None else value.tobytes().hex() for value in (sample.state, sample.action, *sample.images.values())]
    return canonical_digest([sample.id, sample.episode, sample.step, sample.instruction, arrays])
