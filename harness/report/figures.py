"""Figures by layer as inline SVG: one panel per model, coloured by the page's own CSS variables so that dark mode applies."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.report._schema import FigureReport, Number, SeriesReport
from harness.report._words import as_float

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panel", "draw"]

_WIDTH, _HEIGHT = 608, 344  # CSS pixels; a point of matplotlib is one pixel at 72 dpi
_LEFT, _TOP, _BOTTOM = 38, 34, 40
_FONT, _CHARACTER, _LEADING = 12, 6.4, 15  # size, mean advance and line distance in pixels
_DASHES = ((5, 3), (1.5, 2.5), (7, 2, 1.5, 2))

# Each colour is drawn as a number that nothing else uses and then replaced by a CSS variable; the fallback is for light paper.
_INK = {"#010101": "var(--ink, #1b1b1a)", "#020202": "var(--muted, #6a6862)", "#030303": "var(--rule, #dedbd3)"}
_SERIES = {f"#0{n}0{n}f{n}": f"var(--series-{n}, {colour})" for n, colour in enumerate(("#0b5cad", "#b34700", "#00735c", "#8c3a8c"))}
_TEXT, _MUTED, _RULE = _INK
_COLOURS = {**_INK, **_SERIES}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harness",
    "font.family": "DejaVu Sans",
    "font.size": _FONT,
    "text.parse_math": False,
    "text.color": _TEXT,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "path.simplify": False,
}


class Panel(NamedTuple):
    """One model's part of a figure, its scales together; `svg` is an element to put into HTML as it is."""

    model: str
    svg: str


class _Line(NamedTuple):
    name: str
    colour: str
    dashes: tuple[float, ...] | None
    x: list[int]
    y: list[float]
    low: list[float]
    high: list[float]


def draw(figure: FigureReport, *, prefix: str) -> list[Panel]:
    """One panel for each model, all on the same axes, so that a model stands beside its untrained control; `prefix` keeps the ids of several figures on a page apart."""
    models = list(dict.fromkeys(series["subject"].partition(":")[0] for series in figure["series"]))
    lines = [_lines([series for series in figure["series"] if series["subject"].partition(":")[0] == model]) for model in models]
    finite = [value for panel in lines for line in panel for value in (*line.y, *line.low, *line.high) if math.isfinite(value)]
    layers = [layer for panel in lines for line in panel for layer in line.x]
    right = 16 + _CHARACTER * min(26, max(len(line.name) for panel in lines for line in panel))
    return [
        Panel(model, _svg(panel, figure["ylabel"], _span(finite), (min(layers), max(layers)), right, f"{prefix}-{index}", f"{figure['title']}, {model}"))
        for index, (model, panel) in enumerate(zip(models, lines, strict=True))
    ]


def _lines(series: Sequence[SeriesReport]) -> list[_Line]:
    """Claims as solid lines in colour; ceilings and measured controls dashed and grey."""
    lines: list[_Line] = []
    for one in series:
        dashed = sum(line.dashes is not None for line in lines)
        colour = _MUTED if one["ceiling"] else list(_SERIES)[(len(lines) - dashed) % len(_SERIES)]
        y = [_number(value) for value in one["values"]]
        low, high = ([_number(value) for value in one[side]] for side in ("low", "high"))
        lines.append(_Line(one["name"], colour, _DASHES[dashed % len(_DASHES)] if one["ceiling"] else None, one["layers"], y, low, high))
    for one in series:
        control = [_number(value) for value in one["control"]]
        if any(map(math.isfinite, control)) and not one["ceiling"]:
            dashes = _DASHES[sum(line.dashes is not None for line in lines) % len(_DASHES)]
            lines.append(_Line(f"control of {one['name']}", _MUTED, dashes, one["layers"], control, [], []))
    return lines


def _svg(lines: Sequence[_Line], ylabel: str, y_span: tuple[float, float], x_span: tuple[int, int], right: float, prefix: str, title: str) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
        figure.patch.set_alpha(0)
        inside = (_WIDTH - _LEFT - right) / _WIDTH, (_HEIGHT - _TOP - _BOTTOM) / _HEIGHT
        axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / _HEIGHT, *inside), facecolor="none")
        margin = max(0.5, (x_span[1] - x_span[0]) * 0.02)
        axes.set(xlim=(x_span[0] - margin, x_span[1] + margin), ylim=y_span)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel("layer", labelpad=4)
        figure.text(4 / _WIDTH, 1 - 14 / _HEIGHT, ylabel, color=_MUTED, ha="left", va="center")
        for line in lines:
            _plot(axes, line)
        _label(axes, lines)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(buffer.getvalue(), prefix, title)


def _plot(axes: Axes, line: _Line) -> None:
    if line.low and line.high:
        axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.16, linewidth=0)
    solid = line.dashes is None
    style = {"linestyle": "-"} if solid else {"linestyle": (0, line.dashes)}
    axes.plot(line.x, line.y, color=line.colour, linewidth=2 if solid else 1.4, marker="o" if len(line.x) < 40 else "", markersize=3.4 if solid else 2, **style)


def _label(axes: Axes, lines: Sequence[_Line]) -> None:
    """Names each line at its right end; names that would overlap are pushed apart, in the order of their lines."""
    ends = [(line, max((point for point in zip(line.x, line.y, strict=True) if math.isfinite(point[1])), default=None)) for line in lines]
    low, high = axes.get_ylim()
    pixels = (_HEIGHT - _TOP - _BOTTOM) / (high - low)
    shown = sorted((((end[1] - low) * pixels, line) for line, end in ends if end is not None), key=lambda pair: pair[0])
    heights: list[float] = []
    for height, _ in shown:
        heights.append(max(height, heights[-1] + _LEADING) if heights else height)
    surplus = max(0.0, heights[-1] - (high - low) * pixels) if heights else 0.0
    for height, (_, line) in zip(heights, shown, strict=True):
        name = line.name if len(line.name) <= 26 else f"{line.name[:25]}…"
        place = (1.0, (height - surplus) / ((high - low) * pixels))
        weight = {"fontweight": "bold"} if line.dashes is None else {}
        axes.annotate(name, place, (4, 0), xycoords="axes fraction", textcoords="offset points", color=line.colour, va="center", annotation_clip=False, **weight)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """0 to 1 for values that lie there (accuracies, similarities), else their range with a margin."""
    if not values or (min(values) >= 0 and 0.3 <= max(values) <= 1):
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-12)
    return (0.0 if 0 <= low < 0.5 * high else low - margin), high + margin


def _number(value: Number) -> float:
    """A gap in the line for what is no finite number."""
    number = as_float(value)
    return number if number is not None and math.isfinite(number) else math.nan


def _inline(text: str, prefix: str, title: str) -> str:
    """The `<svg>` element alone: no prolog, size left to the page, ids made unique, colours and font taken from the page."""
    from markupsafe import escape

    body = text[text.index("<svg") :]
    opening = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
    body = opening + body[body.index(">") + 1 :]
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # it would apply to the whole page
    return re.sub(r'style="([^"]*)"', lambda match: f'style="{_themed(match[1])}"', body).strip()


def _themed(style: str) -> str:
    style = style.replace("font-family: 'DejaVu Sans'; ", "")
    for number, colour in _COLOURS.items():
        style = style.replace(number, colour)
    return style
