"""Whether a linear probe reads the task as well from the second side: the accuracy that is left, beside the drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from harness import subjects
from harness.compare._sides import Pair
from harness.extract import pooled
from harness.metrics.linear_probe import linear_probe
from harness.metrics.probe_gain import probe_gain
from harness.types import Runtime, Sample

__all__ = ["ProbeDrift", "probe_drift", "worse"]

LEAST = 10  # tasks


@dataclass(frozen=True)
class ProbeDrift:
    """Retrieval accuracy of held-out tasks before and after in [0, 1], and the paired difference with its 95 % interval over tasks."""

    place: str
    before: float
    after: float
    gain: float
    low: float
    high: float
    chance: float


def probe_drift(pair: Pair, samples: Mapping[str, Sample], reference: str, *, seed: int = 0) -> ProbeDrift | str:
    """The probe of document 001 towards the reference's embedding of each instruction; the reason where it cannot be asked."""
    if not samples:
        return "the samples are not here, only their features"
    instructions = [samples[name].instruction.strip() for name in pair.sample_ids]
    distinct = tuple(dict.fromkeys(instructions))
    if len(distinct) < LEAST or not all(distinct):
        return f"{len(distinct)} different instructions; a probe needs {LEAST} tasks, each with a text"
    if reference not in subjects.subject_ids():
        return f"no card describes {reference}, the reference embedding"
    if (command := subjects.missing(reference)) is not None:
        return f"{reference} is not here: {command}"
    targets = _embedded(reference, distinct)
    groups = np.array([distinct.index(text) for text in instructions])
    before = linear_probe(pair.x, targets, groups, seed=seed)
    if np.array_equal(pair.x, pair.y):
        return ProbeDrift(pair.place, before.value, before.value, 0.0, 0.0, 0.0, before.chance)
    gain = probe_gain(pair.y, pair.x, targets, groups, seed=seed)  # of the same folds, so that no probe of y alone is needed
    return ProbeDrift(pair.place, before.value, before.value + gain.value, gain.value, gain.low, gain.high, before.chance)


def worse(probes: Sequence[ProbeDrift]) -> list[ProbeDrift]:
    """Probes that read the task worse after than before, at 5 % for all of them together (Bonferroni, intervals taken for those of a normal mean)."""
    normal = NormalDist()
    wider = normal.inv_cdf(1 - 0.025 / max(1, len(probes))) / normal.inv_cdf(0.975)
    return [probe for probe in probes if probe.gain + wider * (probe.high - probe.gain) < 0]


@lru_cache(maxsize=4)
def _embedded(reference: str, instructions: tuple[str, ...]) -> np.ndarray:
    """The reference's last block, pooled, of every instruction."""
    adapter = subjects.load(subjects.resolve(reference), Runtime())
    point = adapter.resolve("lm.-1.output")
    texts = [Sample(str(number), text) for number, text in enumerate(instructions)]
    return pooled(adapter, texts, [point])[point]
