"""A comparison as files: `compare.json` with every number, `compare.md` and a self-contained `index.html`."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.compare import _plots as plots
from harness.compare._point import PointDrift
from harness.compare._verdict import NOISE
from harness.report import interval, number, style
from harness.storage import storage
from harness.types import Sample

if TYPE_CHECKING:
    from harness.compare._run import Drift
    from harness.compare._sides import Side

__all__ = ["as_json", "as_markdown", "write"]

THUMBNAIL = 224  # pixels


class Shown(NamedTuple):
    """A sample that moved far, with its first picture as base64 JPEG where it has one."""

    id: str
    moved: float
    instruction: str
    picture: str | None


def write(drift: Drift, sides: tuple[Side, Side], samples: Mapping[str, Sample], folder: Path) -> Path:
    """Writes the three files, each whole or not at all; gives the page's path."""
    furthest = _furthest(drift)
    files = {
        "compare.json": json.dumps(as_json(drift), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "compare.md": as_markdown(drift),
        "index.html": _html(drift, furthest, _pictures(drift, sides, furthest), _shown(furthest, samples)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        storage(folder).write(name, text.encode())
    return folder / "index.html"


def as_json(drift: Drift) -> dict[str, Any]:
    """Every number of a comparison; NaN and infinity as strings."""
    found = asdict(drift)
    found["verdict"] = {"word": drift.verdict.word, "reason": drift.verdict.reason}
    for point, told in zip(drift.points, found["points"], strict=True):
        for name in ("cka", "neighbours"):
            score = getattr(point, name)
            told[name] = None if score is None else score._asdict()
    return _finite(found)


def as_markdown(drift: Drift) -> str:
    """The verdict, and the places in a table."""
    rows = [
        f"| {point.place} | {number(point.change)} | {number(point.floors)} | {number(drift.weights[point.place].change) if point.place in drift.weights else ''} "
        f"| {number(point.cosine[0])} | {number(point.cka.value) if point.cka else ''} | {number(point.neighbours.value) if point.neighbours else ''} | {number(point.shift)} |"
        for point in drift.points
    ]
    head = [
        f"# {drift.names[0]} and {drift.names[1]}: {drift.verdict.word}",
        f"{drift.verdict.reason}. {drift.n} samples of {drift.dataset}; noise floors {drift.floors}.",
        "| place | change | noise floors | weights | cosine | CKA | neighbours kept | shift |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n" + "\n".join(rows),
    ]
    probes = [f"| {probe.place} | {number(probe.before)} | {number(probe.after)} | {number(probe.gain)} {interval(probe.low, probe.high)} |" for probe in drift.probes]
    probe = "| probe at | before | after | difference |\n| --- | ---: | ---: | ---: |\n" + "\n".join(probes) if probes else f"No probe: {drift.probe_absent}."
    return "\n\n".join([*head, probe]) + "\n"


def _html(drift: Drift, furthest: PointDrift, pictures: Mapping[str, str], samples: list[Shown]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("harness.compare", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "interval": interval}
    return environment.get_template("compare.html.j2").render(drift=drift, furthest=furthest, pictures=pictures, samples=samples, style=style(), noise=NOISE)


def _furthest(drift: Drift) -> PointDrift:
    finite = [point for point in drift.points if math.isfinite(point.floors)]
    return max(finite or drift.points, key=lambda point: point.change)


def _pictures(drift: Drift, sides: tuple[Side, Side], furthest: PointDrift) -> dict[str, str]:
    place = next(place for place in sides[0].keys if str(place) == furthest.place)
    x, y = (side.rows(place).values for side in sides)
    found = {
        "heat": plots.heat_map(drift),
        "profile": plots.profile(drift),
        "distributions": plots.distributions(furthest.place, x, y, [index for index, _ in furthest.features]),
        "embedding": plots.embedding(furthest.place, x, y),
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
