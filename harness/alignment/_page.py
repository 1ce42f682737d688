"""The map of two models' points as JSON, and as one self-contained page: no script, no external file."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, NamedTuple

from harness.alignment._json import draws_json, number, versions
from harness.alignment._layers import LayerMap
from harness.alignment._plots import best, scale, shared, short

__all__ = ["layers_json", "layers_table", "page"]

MATRICES = ("value", "low", "high", "null_low", "null_high", "p_value")


class _Cell(NamedTuple):
    """A square of the map: the share of colour in it, 0 to 100, its number, and what a pointer over it tells."""

    shade: float
    text: str
    title: str
    best: bool


def layers_json(found: LayerMap, *, now: datetime | None = None) -> dict[str, Any]:
    """`rows` are points of A, `columns` those of B; every matrix is a list of rows, null where there is no number."""
    episodes = found.episodes
    matrices = {name: [[float(one) if math.isfinite(one) else None for one in row] for row in found.matrix(name)] for name in MATRICES}
    highest = best(found.matrix())
    return {
        "_meta": {
            "timestamp": (now or datetime.now()).strftime("%Y-%m-%d %H:%M:%S"),  # noqa: DTZ005 - as in the JSON of scores
            "A": {"label": found.labels[0], "where": found.where[0], "widths": list(found.widths[0])},
            "B": {"label": found.labels[1], "where": found.where[1], "widths": list(found.widths[1])},
            "metric": found.asked.metric,
            "topk": found.asked.topk,
            "n": found.n,
            "arguments": "x = A, y = B",
            **draws_json(found),
            "metadata_path": None if episodes is None else str(episodes.path),
            "across_episodes": episodes is not None and found.asked.knows_episodes,
            "notes": list(found.notes),
            "versions": versions(),
        },
        "rows": list(map(str, found.rows)),
        "columns": list(map(str, found.columns)),
        **{name: matrix for name, matrix in matrices.items() if any(one is not None for row in matrix for one in row)},
        "best": {str(row): None if column is None else str(found.columns[column]) for row, column in zip(found.rows, highest, strict=True)},
    }


def layers_table(found: LayerMap) -> tuple[list[str], list[list[str]]]:
    """A header, and for every point of A the point of B that it is closest to, with the value."""
    values = found.matrix()
    nearest = zip(found.rows, best(values), values, strict=True)
    rows = [[str(row), "" if at is None else str(found.columns[at]), "" if at is None else number(line[at])] for row, at, line in nearest]
    return ["point of A", "nearest point of B", found.asked.name], rows


def page(found: LayerMap, style: str) -> str:
    """The page; `style` is the CSS to share with other pages. Every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rows = zip(short(found.rows), map(str, found.rows), _cells(found), strict=True)
    columns = zip(short(found.columns), map(str, found.columns), strict=True)
    kinds = shared(found.rows), shared(found.columns)
    told = layers_json(found)["_meta"]
    return environment.from_string(_TEMPLATE).render(found=found, told=told, rows=list(rows), columns=list(columns), kinds=kinds, style=style)


def _cells(found: LayerMap) -> list[list[_Cell]]:
    values, highest = found.matrix(), best(found.matrix())
    low, high = scale(values)
    return [
        [
            _Cell(_share(one.value, low, high), _two(one.value), _title(found, row, column), column == highest[row]) for column, one in enumerate(scores)
        ]
        for row, scores in enumerate(found.scores)
    ]


def _share(value: float, low: float, high: float) -> float:
    return 100 * (value - low) / (high - low) if math.isfinite(value) else 0.0


def _two(value: float) -> str:
    """Two digits without the zero, so that thirty columns fit; a dash where there is no number."""
    return f"{round(value, 2) + 0:.2f}".replace("0.", ".", 1) if math.isfinite(value) else "–"  # + 0: no minus before a zero


def _title(found: LayerMap, row: int, column: int) -> str:
    one = found.scores[row][column]
    told = [f"{found.rows[row]} and {found.columns[column]}: {number(one.value)}"]
    told += [f"interval {number(one.low)} to {number(one.high)}"] if math.isfinite(one.low) else []
    told += [f"chance {number(one.null_low)} to {number(one.null_high)}, p {number(one.p_value, 3)}"] if math.isfinite(one.null_low) else []
    return "; ".join(told)


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ found.asked.name }}: {{ found.labels[0] }} and {{ found.labels[1] }}</title>
<style>
{{ style | safe }}
.scroll { overflow-x: auto; margin-top: 28px; }
.map { width: auto; font: 11px/1 var(--sans); font-variant-numeric: tabular-nums; border-collapse: separate; border-spacing: 1px; }
.map td, .map th { padding: 0; white-space: nowrap; }
.map td { width: 32px; height: 24px; text-align: center; vertical-align: middle; }
.map td { background: color-mix(in srgb, var(--series-0) var(--share), transparent); }
.map td:last-child, .map th:last-child { padding-right: 0; }
.map thead th { vertical-align: bottom; text-align: center; padding-bottom: 6px; font-size: 11px; }
.map thead th span { writing-mode: vertical-rl; transform: rotate(180deg); }
.map tbody th { text-align: right; vertical-align: middle; padding-right: 8px; font-size: 11px; }
.map .best { outline: 2px solid var(--series-1); outline-offset: -2px; }
.map .dark { color: var(--paper); }
.settings { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 18px; margin-top: 8px; font-size: 13px; }
.settings dt { color: var(--muted); }
</style>
</head>
<body>
<main>
<header>
<p class="kicker">Alignment, layer by layer</p>
<h1>{{ found.labels[0] }} (rows) and {{ found.labels[1] }} (columns):
{{ found.asked.metric }}{% if found.asked.topk %}, {{ found.asked.topk }} neighbours{% endif %}.</h1>
<p class="byline">{{ "{:,}".format(found.n) }} samples. Colours run from the lowest to the highest value; a frame marks the highest of a row.
{% if kinds[0] %} Numbers of rows are <code>{{ kinds[0] }}</code>.{% endif %}
{% if kinds[1] %} Numbers of columns are <code>{{ kinds[1] }}</code>.{% endif %}
{% if told.across_episodes %} Neighbours of the same episode are left out.{% endif %}</p>
</header>
<div class="scroll">
<table class="map">
<thead><tr><th></th>
{% for short, name in columns %}
<th scope="col" title="{{ name }}"><span>{{ short }}</span></th>
{% endfor %}
</tr></thead>
<tbody>
{% for short, name, cells in rows %}
<tr><th scope="row" title="{{ name }}">{{ short }}</th>
{% for cell in cells %}
<td title="{{ cell.title }}" class="{{ "dark" if cell.shade > 62 }}{{ " best" if cell.best }}"
style="--share: {{ "%.0f" | format(cell.shade) }}%">{{ cell.text }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table>
</div>
<section>
<h2>How it was made</h2>
<dl class="settings">
<dt>A, the rows</dt><dd><code>{{ told.A.where }}</code></dd>
<dt>B, the columns</dt><dd><code>{{ told.B.where }}</code></dd>
<dt>permutations, halves, seed</dt><dd>{{ told.permutations }}, {{ told.draws }}, {{ told.seed }}</dd>
<dt>episodes from</dt><dd>{{ told.metadata_path or "nowhere: rows are taken as independent" }}</dd>
{% for note in told.notes %}<dt>note</dt><dd>{{ note }}</dd>
{% endfor %}
</dl>
</section>
</main>
</body>
</html>
"""
