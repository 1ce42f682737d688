"""The blocks of every denoise step are read at the first one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.faults import Patch
from harness.faults._seams import move_hooks
from harness.types import Array, Clause, Point

__all__ = ["first_step"]


def first_step(patch: Patch) -> None:
    from harness.adapters import _openpi_sampler, openpi

    original = _openpi_sampler.walk

    def walk(*args: object, **options: object) -> Iterator[tuple[Point | str, Array]]:
        first: dict[Point, Array] = {}
        for name, value in original(*args, **options):
            if isinstance(name, Point) and name.step is not None and name.layer is not None:
                value = first.setdefault(replace(name, step=0), value)  # noqa: PLW2901
            yield name, value

    def moved(point: Point, clause: Clause) -> Clause:
        return clause if clause.call is None or point.layer is None else replace(clause, call=0)

    patch(openpi, "walk", walk)
    move_hooks(patch, moved)
