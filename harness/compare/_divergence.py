"""Where two networks part: the first place that moved, by bisection over places in the network's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.compare._sides import Place

__all__ = ["first_moved"]


def first_moved(places: Sequence[Place], moved: Callable[[Place], bool]) -> Place | None:
    """The first place that moved, where what moved once stays moved, as in a residual stream; None when the last one did not.

    Looks at about log2 of the places. In a stream that moves and comes back, it is a place that moved behind one that did not.
    """
    if not places or not moved(places[-1]):
        return None
    low, high = -1, len(places) - 1  # the place at `high` moved, that at `low` did not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if moved(places[middle]) else (middle, high)
    return places[high]
