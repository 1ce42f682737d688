"""The embedding's positions are counted in the words alone, before the pictures are put between them, as document 000's script does."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["positions_of_own_tensor"]


def positions_of_own_tensor(patch: Patch) -> None:
    from harness import extract
    from harness.types import Point

    given = extract.step_points

    def of_words(*arguments: object, **options: object) -> tuple[Point, ...]:
        return tuple(Point("text", "embedding") if point.stream == "embedding" else point for point in given(*arguments, **options))

    patch(extract, "step_points", of_words)
