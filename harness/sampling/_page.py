"""Statistics as one self-contained page: no script, no external file, plots as inline SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.sampling._stats import Column, Count, Stats
from harness.sampling._tables import number, range_of_lengths

__all__ = ["page"]

TASKS, BINS = 40, 36
WIDTH, HEIGHT = 640, 190  # of the histogram, in CSS pixels


class _Bar(NamedTuple):
    name: str
    count: Count
    share: float


class _Bin(NamedTuple):
    x: float
    width: float
    height: float
    title: str


class _Tick(NamedTuple):
    place: float
    text: str


class _Span(NamedTuple):
    """One dimension's range as places 0 to 100 on an axis that all dimensions share."""

    index: int
    column: Column
    low: float
    high: float
    mean: float
    zero: float


def page(found: Stats, style: str) -> str:
    """The page; the same statistics give the same bytes. `style` is the CSS to share with other pages. Every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("harness.sampling", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    tasks = _bars(found.tasks)
    bins, x_ticks, y_ticks = _histogram(found.lengths)
    return environment.get_template("stats.html.j2").render(
        stats=found,
        style=style,
        tasks=tasks[:TASKS],
        more_tasks=len(tasks) - TASKS,
        fields={name: _bars(counts) for name, counts in found.fields.items() if counts and len(counts) <= TASKS},
        other_fields=[name for name, counts in found.fields.items() if counts is None or len(counts) > TASKS],
        lengths=range_of_lengths(found.lengths),
        bins=bins,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        width=WIDTH,
        height=HEIGHT,
        arrays=[(kind, one, _spans(one.columns)) for kind, numbers in (("Actions", found.actions), ("States", found.states)) for one in numbers],
    )


def _bars(counts: Mapping[str, Count]) -> list[_Bar]:
    most = max((count.episodes for count in counts.values()), default=1)
    return [_Bar(name or "(blank)", count, 100 * count.episodes / most) for name, count in counts.items()]


def _histogram(lengths: Mapping[int, int]) -> tuple[list[_Bin], list[_Tick], list[_Tick]]:
    """Bars, ticks below and ticks at the left, in pixels of the plot; bins are whole numbers of samples wide."""
    if not lengths:
        return [], [], []
    low, high = min(lengths), max(lengths)
    step = max(1, math.ceil((high - low + 1) / BINS))
    counts = [0] * ((high - low) // step + 1)
    for length, episodes in lengths.items():
        counts[(length - low) // step] += episodes
    ticks = _whole_ticks(max(counts))
    top, wide = ticks[-1], WIDTH / len(counts)
    bar = min(wide, 64.0)  # a dataset with one length is a bar, not a wall
    bins = []
    for index, count in enumerate(counts):
        first = low + index * step
        samples = str(first) if step == 1 else f"{first} to {first + step - 1}"
        bins.append(_Bin(wide * index + (wide - bar) / 2, bar, HEIGHT * count / top, f"{samples} samples: {count} episodes"))
    every = math.ceil(len(counts) / 9)
    x_ticks = [_Tick(wide * (index + 0.5), str(low + index * step)) for index in range(0, len(counts), every)]
    return bins, x_ticks, [_Tick(HEIGHT * (1 - value / top), str(value)) for value in ticks]


def _whole_ticks(top: int) -> list[int]:
    """0 and up to four whole numbers at even, round distances, the last at `top` or above."""
    rough = max(1.0, top / 4)
    power = 10 ** math.floor(math.log10(rough))
    step = next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= rough)
    return list(range(0, top + step, step))


def _spans(columns: Sequence[Column]) -> list[_Span]:
    low = min((column.min for column in columns if column.min is not None), default=0.0)
    high = max((column.max for column in columns if column.max is not None), default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)

    def place(value: float | None) -> float:
        return 0.0 if value is None or high == low else 100 * (value - low) / (high - low)

    return [_Span(index, column, place(column.min), place(column.max), place(column.mean), place(0.0)) for index, column in enumerate(columns)]
