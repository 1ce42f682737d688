"""Every point of one model against every point of another, on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
from jaxtyping import Float

from harness.alignment._episodes import Episodes
from harness.alignment._match import match
from harness.alignment._measure import Asked, Draws, bytes_of, measure, paired_metric, prepared, require_topk
from harness.alignment._points import Points
from harness.alignment._rows import Rows
from harness.alignment._table import units_of
from harness.errors import UsageError
from harness.scores import Score
from harness.types import Point, Progress

__all__ = ["LayerMap", "align_layers"]

HELD = 2**30  # bytes of prepared points of the first model that are held at a time


@dataclass(frozen=True)
class LayerMap:
    """`scores[i][j]` compares point i of the first model, as x, with point j of the second, as y."""

    labels: tuple[str, str]
    where: tuple[str, str]
    rows: tuple[Point, ...]
    columns: tuple[Point, ...]
    asked: Asked
    scores: tuple[tuple[Score, ...], ...]
    widths: tuple[tuple[int, ...], tuple[int, ...]]
    n: int
    episodes: Episodes | None
    draws: Draws
    notes: tuple[str, ...]

    def matrix(self, field: str = "value") -> Float[np.ndarray, "i j"]:
        """One field of every score."""
        return np.array([[getattr(one, field) for one in row] for row in self.scores], dtype=np.float64)


def align_layers(
    x: Points,
    y: Points,
    *,
    metric: str = "cknna",
    topk: int = 10,
    episodes: Episodes | None = None,
    shared: bool = False,
    draws: Draws | None = None,
    device: str = "cpu",
    held: int = HELD,
    progress: Progress | None = None,
) -> LayerMap:
    """The metric of every pair of points. With `episodes`, neighbours of one's own episode are left out and chance draws whole episodes.

    Points of x are read and prepared once, in blocks of at most `held` bytes and one point more; for each block the points of y are read
    and prepared one after the other. So memory is `held`, and what two points take while they are read and prepared, whatever their number.
    Raises UsageError for other samples on one side unless `shared`, for points of one model with different samples.
    """
    draws = draws or Draws(permutations=0, draws=0)
    (asked,) = paired_metric(metric, (topk,))
    sides = _Side(x), _Side(y)
    first_x, first_y = (side.open() for side in sides)
    fit = match(first_x, first_y, shared=shared)
    groups, note = units_of(episodes, first_y, fit)
    if asked.topk is not None:
        require_topk((topk,), len(fit.x), x.where, groups=groups, draws=draws.draws)
    notes = [*first_x.notes, *first_y.notes, fit.note, note]
    del first_x, first_y
    ready = partial(prepared, asked=[asked], episodes=groups if asked.knows_episodes else None, device=device)
    table: dict[tuple[Point, Point], Score] = {}
    left = list(sides[0].order)
    while left:
        block: dict[Point, Any] = {}
        while left and (not block or bytes_of(block) < held):
            point = left.pop(0)
            block[point] = ready(sides[0].values(point, None if fit.whole else fit.x))
        for column in sides[1].order:
            other = ready(sides[1].values(column, None if fit.whole else fit.y))
            for row in block:
                if progress:
                    progress(len(table), len(sides[0].order) * len(sides[1].order), f"{row} and {column}")
                table[row, column] = measure(asked, block[row], other, episodes=groups, draws=draws)
            del other  # before the next is read
    rows, columns = (side.order for side in sides)
    scores = tuple(tuple(table[row, column] for column in columns) for row in rows)
    widths = tuple(sides[0].widths[row] for row in rows), tuple(sides[1].widths[column] for column in columns)
    told = tuple(dict.fromkeys(filter(None, notes)))
    return LayerMap((x.label, y.label), (x.where, y.where), rows, columns, asked, scores, widths, len(fit.x), episodes, draws, told)


@final
class _Side:
    """The points of one model, read one at a time; all must be of the samples of the first."""

    def __init__(self, points: Points) -> None:
        self.points, self.order = points, tuple(points.readers)
        self.widths: dict[Point, int] = {}
        self.samples: tuple[int, tuple[str, ...] | None] | None = None
        self._first: Rows | None = None

    def open(self) -> Rows:
        """The first point, kept until its rows are asked for."""
        self._first = self.points.read(self.order[0])
        return self._first

    def values(self, point: Point, rows: np.ndarray | None) -> np.ndarray:
        """The rows of a point, those of the shared samples alone where there are such."""
        found = self._first if self._first is not None and point == self.order[0] else self.points.read(point)
        self._first = self._first if found is not self._first else None
        samples = len(found.values), found.sample_ids
        self.samples = self.samples or samples
        if samples != self.samples:
            got = f"{point}: {samples[0]} rows, of other samples than the {self.samples[0]} of another point"
            raise UsageError("two points of one model were not taken of the same samples", where=found.where, got=got, expected="one extraction of all points")
        self.widths[point] = found.values.shape[1]
        return found.values if rows is None else found.values[rows]
