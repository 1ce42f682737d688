"""Split expressions of TFDS as ranges of episodes, counted from the start of the split whatever the slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

__all__ = ["Range", "ranges"]


class Range(NamedTuple):
    """Episodes [start, stop) of one split."""

    split: str
    start: int
    stop: int

    def within(self, start: int, stop: int) -> Range:
        """The part of it that lies `start` to `stop` behind its own start."""
        return Range(self.split, self.start + max(start, 0), min(self.start + stop, self.stop))

    @property
    def episodes(self) -> int:
        """How many these are."""
        return max(self.stop - self.start, 0)


def ranges(spec: str, splits: Mapping[str, tfds.core.SplitInfo], where: object) -> tuple[Range, ...]:
    """The ranges that `train`, `train[:10%]`, `train[5:8]`, `train+val` name, in that order.

    Raises UnknownNameError for a split that is not there, UsageError for anything else that TFDS refuses, and for episodes named twice.
    """
    import tensorflow_datasets as tfds

    for part in spec.split("+"):
        if (name := part.partition("[")[0].strip()) not in splits and name != "all":
            raise UnknownNameError("split", name, splits, where=where, next="--dataset_split NAME")
    try:
        found = tfds.core.ReadInstruction.from_spec(spec).to_absolute(splits)
    except (ValueError, NotImplementedError) as error:
        counts = ", ".join(f"{name} has {info.num_examples} episodes" for name, info in splits.items())
        got = f"{spec!r}: {str(error).splitlines()[-1]}"
        raise UsageError("this part of the dataset cannot be read", where=where, got=got, expected=f"such as train[:10%]; {counts}") from error
    chosen = tuple(Range(one.splitname, one.from_ or 0, splits[one.splitname].num_examples if one.to is None else one.to) for one in found)
    for number, one in enumerate(chosen):
        for other in chosen[:number]:
            if one.split == other.split and max(one.start, other.start) < min(one.stop, other.stop):
                raise UsageError("a split expression names episodes twice", where=where, got=spec, expected="parts that do not overlap")
    return chosen
