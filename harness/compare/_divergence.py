"""Where two networks part: the first place that moved, by bisection over the places of each stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.compare._sides import Place

__all__ = ["first_moved"]


def first_moved(places: Sequence[Place], moved: Callable[[Place], bool]) -> Place | None:
    """The first place that moved in the first stack (and step of a sampler) whose last place moved; None when no stack's last place did.

    In a residual stream what moved once stays moved, so log2(places of the stack) + 2 are looked at. In a stream that moves and comes back, what is
    found is a place that moved behind one that did not. Stacks beside each other share nothing, so each has a bisection of its own.
    """
    stacks: dict[tuple[str, int | None], list[Place]] = {}
    for place in places:
        stacks.setdefault((place.point.stack, place.point.step), []).append(place)
    return next((found for own in stacks.values() if (found := _first(own, moved)) is not None), None)


def _first(places: Sequence[Place], moved: Callable[[Place], bool]) -> Place | None:
    if not moved(places[-1]):
        return None
    low, high = -1, len(places) - 1  # the place at `high` moved, that at `low` did not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if moved(places[middle]) else (middle, high)
    return places[high]
