"""PCA pictures of extracted vectors: of one step, and of a whole run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["MOST", "run_plot", "step_plot"]

MOST = 2000  # steps in the plot of a run
COLOURS = 10


def step_plot(rows: Mapping[str, np.ndarray], positions: Sequence[int]) -> bytes:
    """A PNG: every vector of a step, a point for each stream and position, on the first two principal components of them all."""
    figure, axes = _figure(1)
    vectors = np.concatenate([np.asarray(x, np.float64) for x in rows.values()])
    shown, share = plane(vectors)
    start = 0
    for name, x in rows.items():
        part = shown[start : start + len(x)]
        axes[0].scatter(part[:, 0], part[:, 1], s=18, label=name)
        start += len(x)
    axes[0].set_title(f"{len(vectors)} vectors, position{'s' * (len(positions) != 1)} {', '.join(map(str, positions[:6]))}{' …' * (len(positions) > 6)}", fontsize=9)
    _label(axes[0], share)
    if len(rows) <= COLOURS:
        axes[0].legend(fontsize=6, frameon=False)
    return _png(figure)


def run_plot(rows: Mapping[str, Sequence[np.ndarray]], episodes: Sequence[str]) -> bytes:
    """A PNG: a panel for every stream, a point for every step (the mean over its positions), coloured by episode."""
    figure, axes = _figure(len(rows))
    colours = np.unique(episodes, return_inverse=True)[1] % COLOURS if len(episodes) else []
    for axis, (name, x) in zip(axes, rows.items(), strict=False):
        shown, share = plane(np.asarray(x, np.float64).reshape(len(x), -1))
        axis.scatter(shown[:, 0], shown[:, 1], c=colours, s=12, cmap="tab10", vmin=0, vmax=COLOURS - 1)
        axis.set_title(name, fontsize=8)
        _label(axis, share)
    return _png(figure)


def plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (n, d) on their first two principal components (n, 2), zero where there are none, and the variance shares (2,)."""
    centred = vectors - vectors.mean(0) if len(vectors) else vectors
    shown, share = np.zeros((len(vectors), 2)), np.zeros(2)
    if len(vectors) > 1 and np.isfinite(centred).all():
        left, scale, right = np.linalg.svd(centred, full_matrices=False)
        signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])  # an SVD's signs are arbitrary: the largest loading is positive
        kept = min(2, len(scale))
        shown[:, :kept] = (left * scale * signs)[:, :kept]
        share[:kept] = (scale**2 / max((scale**2).sum(), np.finfo(float).tiny))[:kept]
    return shown, share


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # no pyplot: it keeps state and is not for threads

    columns = min(4, max(1, panels))
    lines = -(-max(1, panels) // columns)
    figure = Figure(figsize=(3.2 * columns + (1.6 if panels == 1 else 0), 2.9 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel().tolist()
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes


def _label(axis: Any, share: np.ndarray) -> None:
    axis.set_xlabel(f"component 1 ({share[0]:.0%} of variance)", fontsize=7)
    axis.set_ylabel(f"component 2 ({share[1]:.0%})", fontsize=7)
    axis.tick_params(labelsize=6)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
