"""What must be equal before two feature sets may be compared, and the refusal that says what is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.adapters import Adapter
from harness.compare._sides import Place, Side
from harness.errors import UsageError
from harness.pipeline import host
from harness.types import Sample

__all__ = ["require_same_inputs", "require_same_kind", "shared_places"]

LOOKED_AT = 8  # samples whose model inputs are compared
ROUNDING = 0.02  # of the largest input: what bfloat16 does to pixels


def shared_places(first: Side, second: Side) -> list[Place]:
    """Places of both, in the first one's order. Raises UsageError unless both hold features of the same samples of one dataset."""
    places = [place for place in first.keys if place in second.keys]
    if not places:
        got = f"{first.name}: {', '.join(map(str, list(first.keys)[:3]))} …; {second.name}: {', '.join(map(str, list(second.keys)[:3]))} …"
        raise _refused("they have no extraction point in common", got, "two checkpoints of one architecture", "harness align compares different architectures")
    for name, told in (("dataset", "the features are of different datasets"), ("samples", "the features are of different samples"), ("fault", "a mistake was injected into one of them")):
        values = {side.name: getattr(side.keys[places[0]], name) for side in (first, second)}
        if len(set(values.values())) > 1:
            raise _refused(told, "; ".join(f"{side}: {str(value)[:16]}" for side, value in values.items()), "the same", "harness extract both from the same dataset and selection")
    if first.adapter is None or second.adapter is None:  # else the inputs themselves are compared
        codes = {side.keys[places[0]].adapter for side in (first, second)}
        if len(codes) > 1:
            raise _refused("they were not preprocessed and captured alike", "another adapter, other options or another tokenizer", "one adapter", "harness store explain KEY tells what differs")
    return places


def require_same_kind(first: Adapter, second: Adapter) -> None:
    """Raises UsageError for two architectures."""
    if first.subject.family != second.subject.family:
        got = f"{first.subject.id} ({first.subject.family}) and {second.subject.id} ({second.subject.family})"
        raise _refused("they are different architectures", got, "two checkpoints of one family", "harness align compares different architectures")
    widths = [{point: clause.width for point, clause in adapter.clauses.items()} for adapter in (first, second)]
    if widths[0] != widths[1]:
        differing = sorted(str(point) for point in widths[0].keys() ^ widths[1].keys()) or [str(point) for point in widths[0] if widths[0][point] != widths[1][point]]
        raise _refused("they have different sizes", f"other points or widths, first {differing[0]}", "the same layers and widths", "harness align compares different architectures")


def require_same_inputs(first: Adapter, second: Adapter, samples: Sequence[Sample]) -> None:
    """Raises UsageError when the two make different model inputs of the same samples."""
    shown = list(samples[:LOOKED_AT])
    one, other = (adapter.encode(shown).inputs for adapter in (first, second))
    if one.keys() != other.keys():
        raise _refused("their preprocessing differs", f"inputs {', '.join(sorted(one.keys() ^ other.keys()))} on one side only", "equal inputs", "use the preprocessing files of one")
    for name in one:
        left, right = (np.asarray(host(value), np.float64) for value in (one[name], other[name]))
        if left.shape != right.shape or np.abs(left - right).max(initial=0) > ROUNDING * np.abs(left).max(initial=0):
            row = 0 if left.shape != right.shape else int(np.abs(left - right).reshape(len(left), -1).max(1).argmax()) % len(shown)
            got = f"input {name} of sample {shown[row].id!r}: shapes {left.shape} and {right.shape}" if left.shape != right.shape else f"input {name} of sample {shown[row].id!r} differs"
            raise _refused("their preprocessing differs", got, "the same model inputs for the same samples", "use one tokenizer and one preprocessor for both")


def _refused(why: str, got: str, expected: str, next: str) -> UsageError:
    return UsageError(f"these two cannot be compared: {why}", got=got, expected=expected, next=next)
