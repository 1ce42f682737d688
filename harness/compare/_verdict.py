"""One word for a comparison, and the sentence that gives its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from harness.compare._point import PointDrift

__all__ = ["DIFFERENT", "NOISE", "Verdict", "verdict"]

NOISE = 3.0  # noise floors: the floor is itself measured on a few samples
DIFFERENT, SAME_GEOMETRY = 1.0, 0.95  # relative change at which a row tells nothing of its twin, and the CKA of one geometry in another basis


class Verdict(NamedTuple):
    """`identical`: every number; `noise`: no place moved by more than NOISE floors; `different model`: at most places, rows moved as far as samples
    lie apart and the geometry is another one; else `drift`."""

    word: Literal["identical", "noise", "drift", "different model"]
    reason: str


def verdict(points: Sequence[PointDrift], first: str | None) -> Verdict:
    """Of all places in the network's order; `first` is the first one that moved."""
    worst = max(points, key=lambda point: point.floors)
    if all(point.change == 0 for point in points):
        return Verdict("identical", f"all {len(points)} places are the same numbers")
    if first is None:
        return Verdict("noise", f"no place moved by more than {worst.floors:.2g} noise floors ({worst.place}); {NOISE:g} are allowed")
    far = max(points, key=lambda point: point.change)
    measure = f"the first place that moved is {first}; {far.place} moved furthest, by {far.change:.2g} of the spread over samples ({far.floors:.2g} noise floors)"
    geometry = float(np.median([point.cka.value for point in points if point.cka is not None] or [1.0]))
    if np.median([point.change for point in points]) >= DIFFERENT and geometry < SAME_GEOMETRY:
        return Verdict("different model", f"{measure}, and the geometry is another one (median CKA {geometry:.2f})")
    return Verdict("drift", measure + _pattern(far))


def _pattern(point: PointDrift) -> str:
    """What would explain the change of one place, where one thing explains most of it."""
    if point.basis is not None and point.cka is not None:
        return f"; the geometry is the same in another basis ({point.basis}, CKA {point.cka.value:.3f})"
    if point.by_shift > 0.9:
        return f"; one vector added to every sample explains {point.by_shift:.0%} of it"
    if point.by_scale > 0.9:
        return f"; one factor on every sample explains {point.by_scale:.0%} of it"
    return ""
