"""The tensors of two checkpoints against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from harness.inspection._inspect import Inspection, Stored

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """How the structure of two checkpoints differs: names in one only, shapes and dtypes (first, second), and counts by part.

    `shared` counts tensors of one name and shape: those, and when `comparable` all, can be compared value by value.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dtypes: Mapping[str, tuple[str, str]]
    parts: Mapping[str, Mapping[str, int]]
    shared: int
    comparable: bool

    @property
    def holds(self) -> bool:
        """Whether the two have the same structure."""
        return self.comparable and not self.dtypes


def compare(first: Inspection, second: Inspection) -> Difference:
    """The structural difference of two checkpoints; parts are those of the first, for names it lacks of the second.

    Words before the first dot that all names of a checkpoint share (`module.`, `model.`) are a wrapper's and not compared.
    """
    left, right = _unwrapped(first.tensors), _unwrapped(second.tensors)
    common = left.keys() & right.keys()
    pairs = {name: (left[name], right[name]) for name in sorted(common)}
    only_first, only_second = (tuple(sorted(each.keys() - common)) for each in (left, right))
    shapes = {name: (a.shape, b.shape) for name, (a, b) in pairs.items() if a.shape != b.shape}
    dtypes = {name: (a.dtype, b.dtype) for name, (a, b) in pairs.items() if a.dtype != b.dtype}
    kinds = {"only_first": only_first, "only_second": only_second, "shapes": shapes, "dtypes": dtypes}
    counts = {kind: Counter((left.get(name) or right[name]).part for name in names) for kind, names in kinds.items()}
    named = sorted({part for counter in counts.values() for part in counter})
    parts = {part: {kind: counter[part] for kind, counter in counts.items()} for part in named}
    return Difference(only_first, only_second, shapes, dtypes, parts, len(pairs) - len(shapes), not (only_first or only_second or shapes))


def _unwrapped(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    wrapped = dict(tensors)
    while len({name.partition(".")[0] for name in wrapped}) == 1 and all("." in name for name in wrapped):
        wrapped = {name.partition(".")[2]: stored for name, stored in wrapped.items()}
    return wrapped
