"""A comparison as files: `compare.json` with every number, `compare.md` and a self-contained `index.html`."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from harness.compare import _plots as plots
from harness.compare._drift import Comparison, Drift
from harness.compare._point import MOST, NOISE, PointDrift
from harness.compare._sides import Pair
from harness.report import interval, number, style
from harness.storage import storage
from harness.types import Sample

__all__ = ["as_json", "as_markdown", "write"]

THUMBNAIL = 224  # pixels


class Shown(NamedTuple):
    """A sample that moved far, with its first picture as base64 JPEG where it has one."""

    id: str
    moved: float
    instruction: str
    picture: str | None


def write(comparison: Comparison, folder: Path) -> Path:
    """Writes the three files, each whole or not at all; gives the page's path."""
    drift, furthest, samples = comparison
    point = next(point for point in drift.points if point.place == furthest.place)
    files = {
        "compare.json": json.dumps(as_json(drift), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "compare.md": as_markdown(drift),
        "index.html": _html(drift, point, _pictures(drift, furthest, point), _shown(point, samples)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        storage(folder).write(name, text.encode())
    return folder / "index.html"


def as_json(drift: Drift) -> dict[str, Any]:
    """Every number of a comparison; NaN and infinity as strings."""
    found = asdict(drift)
    found["verdict"] = drift.verdict._asdict()
    for point, told in zip(drift.points, found["points"], strict=True):
        named = {"cka": point.cka, "neighbours": point.neighbours, "pattern": point.pattern}
        told |= {name: None if value is None else value._asdict() for name, value in named.items()}
        told["moved"] = point.moved
    return _finite(found)


def as_markdown(drift: Drift) -> str:
    """The verdict, the places and the probes as tables."""
    scores = {point.place: [None if score is None else score.value for score in (point.cka, point.neighbours)] for point in drift.points}
    weights = {name: weight.change for name, weight in drift.weights.items()}
    rows = [
        (point.place, *map(number, (point.change, point.floors, weights.get(point.place), point.turned[0], *scores[point.place], point.shift, point.energy_q)))
        for point in drift.points
    ]
    probes = [(probe.place, number(probe.before), number(probe.after), f"{number(probe.gain)} {interval(probe.low, probe.high)}") for probe in drift.probes]
    parts = [
        f"# {drift.names[0]} and {drift.names[1]}: {drift.verdict.word}",
        f"{drift.verdict.reason}. {drift.n} samples of {drift.dataset}; {len(drift.points)} of {drift.places} places measured; noise floors {drift.floors}.",
        _table(("place", "change", "noise floors", "weights", "1 - cosine", "CKA", "neighbours kept", "shift", "q (energy)"), rows),
        _table(("probe at", "before", "after", "difference"), probes) if probes else f"No probe: {drift.probe_absent}.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}", *(f"| {' | '.join(row)} |" for row in rows)])


def _html(drift: Drift, furthest: PointDrift, pictures: Mapping[str, str], samples: list[Shown]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("harness.compare", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "interval": interval}
    template = environment.get_template("compare.html.j2")
    return template.render(drift=drift, furthest=furthest, pictures=pictures, samples=samples, style=style(), most=MOST, noise=NOISE)


def _pictures(drift: Drift, furthest: Pair, point: PointDrift) -> dict[str, str]:
    found = {
        "heat": plots.heat_map(drift),
        "profile": plots.profile(drift),
        "distributions": plots.distributions(furthest.place, furthest.x, furthest.y, [index for index, _ in point.features]),
        "embedding": plots.embedding(furthest.place, furthest.x, furthest.y),
    }
    return {name: base64.b64encode(data).decode() for name, data in found.items()}


def _shown(furthest: PointDrift, samples: Mapping[str, Sample]) -> list[Shown]:
    return [
        Shown(name, moved, samples[name].instruction if name in samples else "", _thumbnail(samples[name]) if name in samples else None)
        for name, moved in furthest.samples
    ]


def _thumbnail(sample: Sample) -> str | None:
    if not sample.images:
        return None
    from PIL import Image

    picture = Image.fromarray(next(iter(sample.images.values())))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
