"""PNG figures: every model's scores with interval and null band, and the heat map of two models' points."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from itertools import groupby, zip_longest
from typing import Any

import numpy as np

from harness.alignment._json import number
from harness.alignment._layers import LayerMap
from harness.alignment._table import Alignment
from harness.scores import Score
from harness.types import Point

__all__ = ["best", "layers_png", "scale", "scores_png", "shared", "short"]

COLOUR, OTHER, NULL, INK, MUTED = "#0b5cad", "#b34700", "#c9c5ba", "#1b1b1a", "#66645e"
WRITTEN = 16  # columns up to which a cell tells its number
LONGEST = 34  # characters of a label


def scores_png(found: Alignment) -> bytes:
    """A panel for every metric and k, a line for every model: the score with its interval, beside the null band; the other episodes' below it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = _grid(list(found.models[0].scores))
    lines, columns = len(panels), max(map(len, panels))
    labels = [_cut(model.label) for model in found.models]
    wide = 0.075 * max(map(len, labels)) + 0.3
    figure = _figure(wide + 2.9 * columns, 0.75 + lines * (0.85 + 0.42 * len(labels)))
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    apart = any(model.across_episodes for model in found.models)
    for axis, name in ((axis, name) for line, names in zip(axes, panels, strict=True) for axis, name in zip_longest(line, names)):
        if name is None:
            axis.set_visible(False)
            continue
        for place, model in enumerate(found.models):
            offset = 0.17 if name in model.across_episodes else 0.0
            _score(axis, place - offset, model.scores[name], COLOUR, "o")
            if offset:
                _score(axis, place + offset, model.across_episodes[name], OTHER, "s")
        axis.set_title(_titled(name), fontsize=9, loc="left", color=INK)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.45, -0.55)
        axis.axvline(0, color=MUTED, linewidth=0.6)
        axis.margins(x=0.18)
        _plain(axis)
        axis.grid(axis="x", color="#e4e1d9", linewidth=0.6)
        axis.tick_params(axis="y", length=0)
    told = [Line2D([], [], color=COLOUR, marker="o", markersize=4, linewidth=1.4, label="all neighbours")]
    told += [Line2D([], [], color=OTHER, marker="s", markersize=4, linewidth=1.4, label="neighbours of other episodes")] if apart else []
    told += [Patch(color=NULL, linewidth=0, label="95 % of permutations")] if found.draws.permutations else []
    if len(told) > 1:
        figure.legend(handles=told, loc="outside lower center", ncols=len(told), fontsize=7.5, frameon=False)
    return _png(figure)


def layers_png(found: LayerMap) -> bytes:
    """A heat map of the values, points of the first model downward; a frame marks the highest of every row, a dash what is no number."""
    values = found.matrix()
    rows, columns = short(found.rows), short(found.columns)
    names = 0.085 * max(map(len, rows)), 0.085 * max(map(len, columns))
    cell = 0.46 if len(columns) <= WRITTEN else 0.26
    figure = _figure(1.6 + names[0] + cell * len(columns), 1.0 + names[1] + (0.3 if cell > 0.3 else 0.26) * len(rows))
    axis = figure.subplots()
    low, high = scale(values)
    drawn = axis.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=90)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel(_side(found.labels[1], found.columns), fontsize=8.5)
    axis.set_ylabel(_side(found.labels[0], found.rows), fontsize=8.5)
    axis.set_facecolor(NULL)  # shows where there is no number
    axis.set_title(f"{_titled(found.asked.name)}, n = {found.n}", fontsize=9, loc="left", color=INK)
    axis.tick_params(length=0, labelsize=7)
    axis.spines[:].set_visible(False)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if len(columns) <= WRITTEN or not math.isfinite(value):
            dark = math.isfinite(value) and value > low + 0.6 * (high - low)
            axis.text(column, row, f"{value:.2f}" if math.isfinite(value) else "–", ha="center", va="center", fontsize=6.5, color="white" if dark else INK)
    for row, column in enumerate(best(values)):
        if column is not None:
            axis.add_patch(_frame(row, column))
    bar = figure.colorbar(drawn, ax=axis, fraction=0.04, pad=0.02, aspect=32)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)
    return _png(figure)


def best(values: np.ndarray) -> list[int | None]:
    """The column of the highest value of every row; None for a row without numbers."""
    return [int(np.nanargmax(row)) if np.isfinite(row).any() else None for row in values]


def short(points: Sequence[Point]) -> list[str]:
    """Names of points without what all layers share: `05` for lm.05.output among lm.NN.output."""
    stack = shared(points)
    if stack is None:
        return list(map(str, points))
    return [str(point).removeprefix(f"{point.stack}.") if point.layer is None else f"{point.layer:02d}" for point in points]


def shared(points: Sequence[Point]) -> str | None:
    """What `05` stands for, such as lm.NN.output; None where layers are of several kinds and names stay whole."""
    kinds = {(point.stack, point.step, point.stream) for point in points if point.layer is not None}
    if len(kinds) != 1 or len({(point.stack, point.step) for point in points}) != 1:
        return None
    stack, step, stream = next(iter(kinds))
    return str(Point(stack, stream, 0, step)).replace(".00.", ".NN.")


def _side(label: str, points: Sequence[Point]) -> str:
    return label if (kind := shared(points)) is None else f"{label}, {kind}"


def _grid(names: Sequence[str]) -> list[list[str]]:
    """A line of panels for every metric, of at most four."""
    metrics = [list(group) for _, group in groupby(names, key=lambda name: name.rpartition("_k")[0] or name)]
    return [group[start : start + 4] for group in metrics for start in range(0, len(group), 4)]


def _score(axis: Any, place: float, one: Score, colour: str, marker: str) -> None:
    if math.isfinite(one.null_low):
        axis.barh(place, one.null_high - one.null_low, left=one.null_low, height=0.26, color=NULL, linewidth=0, zorder=1)
    if math.isfinite(one.low):
        axis.plot([one.low, one.high], [place, place], color=colour, linewidth=1.6, zorder=2, solid_capstyle="butt")
    axis.plot([one.value], [place], marker=marker, markersize=4.2, color=colour, zorder=3)
    right = max(end for end in (one.value, one.high, one.null_high) if math.isfinite(end))
    axis.annotate(number(one.value, 3), (right, place), (4, 0), textcoords="offset points", fontsize=6.5, color=colour, va="center")


def scale(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest number, which the colours run between; what a map shows is where they lie."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return (low, high) if high > low else (low - 1.0, high)


def _frame(row: int, column: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=OTHER, linewidth=1.1)


def _plain(axis: Any) -> None:
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(MUTED)
    axis.tick_params(labelsize=7.5, color=MUTED)
    axis.set_axisbelow(True)


def _titled(name: str) -> str:
    return re.sub(r"_k(\d+)$", r", k = \1", name)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # no pyplot: it keeps state and is not for threads

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
