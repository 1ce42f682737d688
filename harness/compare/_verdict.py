"""One word for a comparison with the sentence that gives its reason, and p-values corrected for the number of places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from harness.compare._point import NOISE, PointDrift

__all__ = ["Verdict", "corrected", "verdict"]

DIFFERENT, SAME_GEOMETRY = 1.0, 0.95  # relative change at which a row tells nothing of its twin, and the CKA of one geometry in another basis


class Verdict(NamedTuple):
    """`identical`: every number; `noise`: no place moved by more than NOISE floors; `different model`: at half of the places or more, rows moved as
    far as samples lie apart and the geometry is another one; else `drift`."""

    word: Literal["identical", "noise", "drift", "different model"]
    reason: str

    @property
    def holds(self) -> bool:
        """Whether the second side is the first one still."""
        return self.word in ("identical", "noise")


def verdict(points: Sequence[PointDrift], first: str | None) -> Verdict:
    """Of all places in the network's order; `first` is the first one that moved."""
    if all(point.change == 0 for point in points):
        return Verdict("identical", f"all {len(points)} places are the same numbers")
    worst = max(points, key=lambda point: point.floors)
    if first is None:
        return Verdict("noise", f"the largest change of {len(points)} places is {worst.floors:.2g} noise floors ({worst.place}), and up to {NOISE:g} are noise")
    far = max(points, key=lambda point: point.change)
    told = f"the first place that moved is {first}; {far.place} moved furthest, by {far.change:.2g} of the spread over samples ({far.floors:.2g} noise floors)"
    geometry = float(np.median([point.cka.value for point in points if point.cka is not None] or [1.0]))
    if np.median([point.change for point in points]) >= DIFFERENT and geometry < SAME_GEOMETRY:
        return Verdict("different model", f"{told}, and the geometry is another one (median CKA {geometry:.2f})")
    return Verdict("drift", "; ".join(filter(None, [told, str(far.pattern)])))


def corrected(points: Sequence[PointDrift]) -> list[PointDrift]:
    """The same with `energy_q`: the smallest rate of false discoveries over these places at which each is one (Benjamini and Hochberg, 1995)."""
    p_values = np.array([point.energy_p for point in points])
    order = np.argsort(-p_values, kind="stable")
    ranks = np.arange(len(points), 0, -1)
    rates = np.empty(len(points))
    rates[order] = np.minimum.accumulate(p_values[order] * len(points) / ranks)
    return [replace(point, energy_q=float(rate)) for point, rate in zip(points, rates, strict=True)]
