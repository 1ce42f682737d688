"""The pictures of a comparison as PNG: where it moved, how distributions moved, and both sides on one map."""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.compare._drift import Drift
from harness.compare._point import NOISE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["distributions", "embedding", "heat_map", "profile"]

BEFORE, AFTER, QUIET = "#0b5cad", "#b34700", "#8a877e"
MAPPED = 500  # samples on the map: t-SNE of more takes minutes
LABELS = 34  # characters of a place's name


def heat_map(drift: Drift) -> bytes:
    """Noise floors by place (columns) and span (rows), on a logarithmic scale."""
    columns = list(dict.fromkeys(point.place.partition(" over ")[0] for point in drift.points))
    rows = list(dict.fromkeys(point.place.partition(" over ")[2] or "all tokens" for point in drift.points))
    values = np.full((len(rows), len(columns)), np.nan)
    for point in (point for point in drift.points if np.isfinite(point.floors)):
        column, _, row = point.place.partition(" over ")
        values[rows.index(row or "all tokens"), columns.index(column)] = np.log10(max(point.floors, 1e-2))
    figure = _figure(max(6.0, 0.24 * len(columns) + 2.4), 1.7 + 0.34 * len(rows))
    axes = figure.subplots()
    top = max(float(np.nanmax(values, initial=0)), np.log10(NOISE) + 0.1)
    image = axes.imshow(values, aspect="auto", cmap="Oranges", vmin=np.log10(NOISE) - 0.5, vmax=top)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    ticks = [tick for tick in bar.get_ticks() if image.get_clim()[0] <= tick <= top]
    bar.set_ticks(ticks, labels=[f"{10**tick:.3g}" for tick in ticks])
    bar.set_label(f"noise floors\n(noise up to {NOISE:g})", fontsize=8)
    return _png(figure)


def profile(drift: Drift) -> bytes:
    """Weights, features, geometry and probe over the network's depth, one panel each."""
    names = [point.place for point in drift.points if " over " not in point.place]
    panels = _panels(drift, names)
    figure = _figure(10.5, 0.7 + 1.35 * len(panels))
    for axes, panel in zip(np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True):
        for label, colour, values in panel.lines:
            axes.plot(range(len(names)), values, "o-", color=colour, label=label, markersize=3, linewidth=1.2)
        positive = np.concatenate([values[np.isfinite(values) & (values > 0)] for _, _, values in panel.lines])
        if panel.logarithmic and len(positive) and positive.max() > 10 * positive.min():
            axes.set_yscale("log", nonpositive="mask")
        axes.set_title(panel.title, loc="left", fontsize=9)
        axes.grid(axis="y", color="#e4e1da", linewidth=0.7)
        if len(panel.lines) > 1:
            axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    return _png(figure)


class Panel(NamedTuple):
    """Curves over the same places, each with label, colour and values; NaN where a place has none."""

    title: str
    lines: list[tuple[str, str, np.ndarray]]
    logarithmic: bool = False


def _panels(drift: Drift, names: Sequence[str]) -> list[Panel]:
    points, probes = {point.place: point for point in drift.points}, {probe.place: probe for probe in drift.probes}

    def along(value: Callable[[str], float], among: Container[str]) -> np.ndarray:
        found = np.array([value(name) if name in among else np.nan for name in names], float)
        return np.where(np.isfinite(found), found, np.nan)

    weights = [("", AFTER, along(lambda name: drift.weights[name].change, drift.weights))]
    features = [("change", AFTER, along(lambda name: points[name].change, points)), ("noise floor", QUIET, along(lambda name: points[name].floor, points))]
    geometry = [
        ("CKA", BEFORE, along(lambda name: _value(points[name].cka), points)),
        ("neighbours kept", AFTER, along(lambda name: _value(points[name].neighbours), points)),
    ]
    accuracy = [("before", BEFORE, along(lambda name: probes[name].before, probes)), ("after", AFTER, along(lambda name: probes[name].after, probes))]
    return [
        *([Panel("weights: ‖after - before‖ / ‖before‖", weights, logarithmic=True)] if drift.weights else []),
        Panel("features: change / spread", features, logarithmic=True),
        Panel("geometry", geometry),
        *([Panel("probe accuracy", accuracy)] if probes else []),
    ]


def distributions(place: str, x: np.ndarray, y: np.ndarray, features: Sequence[int]) -> bytes:
    """Histograms before and after: all values, and each of the features that moved most."""
    chosen = [("all values", x.ravel(), y.ravel()), *((f"feature {index}", x[:, index], y[:, index]) for index in features[:5])]
    figure = _figure(10.5, 2.3 * -(-len(chosen) // 3))
    for axes, (title, before, after) in zip(figure.subplots(-(-len(chosen) // 3), 3, squeeze=False).ravel(), chosen, strict=False):
        low, high = np.quantile(np.concatenate([before, after]), (0.001, 0.999))
        bins = np.linspace(low, high if high > low else low + 1, 41)
        axes.hist(before, bins, color=BEFORE, alpha=0.45, density=True, label="before")
        axes.hist(after, bins, histtype="step", color=AFTER, linewidth=1.4, density=True, label="after")
        axes.set_title(f"{title}, {place}"[: LABELS + 16], loc="left", fontsize=8)
        axes.set_yticks([])
    for axes in figure.axes[len(chosen) :]:
        axes.set_visible(False)
    figure.axes[0].legend(fontsize=7, frameon=False)
    return _png(figure)


def embedding(place: str, x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> bytes:
    """Both sides on one t-SNE map (and UMAP where umap-learn is installed), a line from each sample to itself."""
    few = np.linspace(0, len(x) - 1, min(len(x), MAPPED)).astype(int)
    maps = [("t-SNE", _tsne), *([("UMAP", _umap)] if _has_umap() else [])]
    figure = _figure(5.4 * len(maps), 4.6)
    for axes, (name, method) in zip(np.atleast_1d(figure.subplots(1, len(maps))), maps, strict=True):
        places = method(np.concatenate([x[few], y[few]]).astype(np.float64), seed)
        before, after = places[: len(few)], places[len(few) :]
        axes.plot(*np.stack([before, after, np.full_like(before, np.nan)], 1).reshape(-1, 2).T, color=QUIET, linewidth=0.5, zorder=1)
        axes.scatter(*before.T, s=9, color=BEFORE, label="before", zorder=2)
        axes.scatter(*after.T, s=9, color=AFTER, label="after", zorder=2)
        axes.set_title(f"{name}, {place}", loc="left", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.axes[0].legend(fontsize=8, frameon=False)
    return _png(figure)


def _tsne(rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed).fit_transform(rows)


def _umap(rows: np.ndarray, seed: int) -> np.ndarray:
    from umap import UMAP

    return UMAP(n_neighbors=min(15, len(rows) - 1), random_state=seed).fit_transform(rows)


def _has_umap() -> bool:
    from importlib.util import find_spec

    return find_spec("umap") is not None


def _value(score: Any) -> float:
    return float("nan") if score is None else score.value


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    figure.set_facecolor("white")
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
