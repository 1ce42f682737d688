"""What must be equal before two feature sets may be compared, and the refusal that says what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.adapters import Adapter
from harness.compare._sides import Place, Side
from harness.errors import UsageError
from harness.pipeline import host
from harness.types import Array, Features, Sample

__all__ = ["require_same_inputs", "require_same_kind", "require_same_samples", "shared_places"]

LOOKED_AT, BATCH = 64, 8  # samples whose model inputs are compared, of different instructions where there are enough
ROUNDING = 0.02  # of the largest input that is no whole number: what bfloat16 does to pixels
DIFFERENT = {
    "dataset": "the features are of different datasets",
    "samples": "the features are of different samples",
    "fault": "a mistake was injected into one of them",
}
ALIGN = "harness align compares different architectures"


def shared_places(first: Side, second: Side) -> list[Place]:
    """Places of both, in the first one's order. Raises UsageError unless both hold features of the same samples of one dataset."""
    places = [place for place in first.keys if place in second.keys]
    if not places:
        got = "; ".join(f"{side.name}: {', '.join(map(str, list(side.keys)[:3]))} …" for side in (first, second))
        raise _refused("they have no extraction point in common", got, "two checkpoints of one architecture", ALIGN)
    keys = {side.name: side.keys[places[0]] for side in (first, second)}
    for name, told in DIFFERENT.items():
        if len({getattr(key, name) for key in keys.values()}) > 1:
            got = "; ".join(f"{side}: {str(getattr(key, name))[:16]}" for side, key in keys.items())
            raise _refused(told, got, "the same", "harness extract both from the same dataset and selection")
    # Of models that are here the inputs themselves were compared.
    if (first.adapter is None or second.adapter is None) and len({(key.adapter, key.capture) for key in keys.values()}) > 1:
        got = "another adapter, other options, another tokenizer, or other pooling code"
        raise _refused("they were not preprocessed and captured alike", got, "one way to take features", "harness store explain KEY tells what differs")
    return places


def require_same_samples(x: Features, y: Features, place: Place) -> None:
    """Raises UsageError unless both hold the same samples in the same order."""
    if x.sample_ids != y.sample_ids:
        lacking = sorted(set(x.sample_ids) ^ set(y.sample_ids))
        how = f"{len(lacking)} on one side only, first {lacking[0]}" if lacking else "in another order"
        got = f"{len(x.sample_ids)} and {len(y.sample_ids)} samples at {place}, {how}"
        raise _refused("the samples are not the same", got, "the same samples in the same order", "harness extract both from the same dataset and selection")


def require_same_kind(first: Adapter, second: Adapter) -> None:
    """Raises UsageError for two architectures, other sizes, or weights that are shapes only."""
    for side in (first, second):
        if side.subject.weights.kind == "meta":
            raise _refused("a model without weights has no features", side.subject.id, "a scale with weights", "harness inspect compares shapes")
    if first.subject.family != second.subject.family:
        got = f"{first.subject.id} ({first.subject.family}) and {second.subject.id} ({second.subject.family})"
        raise _refused("they are different architectures", got, "two checkpoints of one family", ALIGN)
    widths = [{point: clause.width for point, clause in adapter.clauses.items()} for adapter in (first, second)]
    if widths[0] != widths[1]:
        names = dict.fromkeys([*widths[0], *widths[1]])
        name = next(point for point in names if widths[0].get(point) != widths[1].get(point))
        got = " and ".join(f"width {found[name]}" if name in found else "no such point" for found in widths)
        raise _refused("they have different sizes", f"{got} at {name}", "the same layers and widths", ALIGN)


def require_same_inputs(first: Adapter, second: Adapter, samples: Sequence[Sample]) -> None:
    """Raises UsageError when the two make different model inputs of the same samples: another tokenizer, prompt, camera or picture size."""
    shown = _different(samples)
    for start in range(0, len(shown), BATCH):
        some = shown[start : start + BATCH]
        _require_equal(first.encode(some).inputs, second.encode(some).inputs, some)


def _different(samples: Sequence[Sample]) -> list[Sample]:
    """At most LOOKED_AT samples, evenly spaced among those with an instruction of their own, filled up with any."""
    own = list({sample.instruction: sample for sample in reversed(samples)}.values())
    chosen = own if len(own) >= min(LOOKED_AT, len(samples)) else list({sample.id: sample for sample in [*own, *_spaced(samples)]}.values())
    return _spaced(chosen)


def _spaced(samples: Sequence[Sample]) -> list[Sample]:
    return [samples[index] for index in np.linspace(0, len(samples) - 1, min(LOOKED_AT, len(samples))).astype(int)]


def _require_equal(one: Mapping[str, Array], other: Mapping[str, Array], samples: Sequence[Sample]) -> None:
    what, equal, next = "their preprocessing differs", "the same model inputs for the same samples", "use one tokenizer and one preprocessor for both"
    if one.keys() != other.keys():
        raise _refused(what, f"inputs {', '.join(sorted(one.keys() ^ other.keys()))} on one side only", equal, next)
    for name in one:
        left, right = (np.atleast_1d(host(value)) for value in (one[name], other[name]))
        if left.shape != right.shape:
            raise _refused(what, f"input {name} has shapes {left.shape} and {right.shape}, first sample {samples[0].id!r}", equal, next)
        apart = np.abs(np.nan_to_num(left.astype(np.float64)) - np.nan_to_num(right.astype(np.float64))).reshape(len(left), -1)
        rounding = 0.0 if left.dtype.kind in "biu" else ROUNDING * float(np.abs(np.nan_to_num(left)).max(initial=0))
        if apart.max(initial=0) > rounding:
            row = int(apart.max(1).argmax()) * len(samples) // len(left)  # a sample may be several rows: its pictures
            raise _refused(what, f"input {name} of sample {samples[row].id!r} differs by {apart.max():.3g}", equal, next)


def _refused(why: str, got: str, expected: str, next: str) -> UsageError:
    return UsageError(f"these two cannot be compared: {why}", got=got, expected=expected, next=next)
