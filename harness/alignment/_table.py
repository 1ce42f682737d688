"""Models against one reference, as document 004's compute_cknna.py compares them, with intervals, null bands and episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, final

import numpy as np

from harness.alignment._episodes import Episodes
from harness.alignment._match import Match, match
from harness.alignment._measure import Asked, Draws, measure, paired_metric, prepared, require_topk
from harness.alignment._rows import Rows, unique_labels
from harness.errors import UsageError
from harness.metrics import comparison
from harness.scores import LEAST_GROUPS, Score
from harness.types import Progress

__all__ = ["EPS", "Aligned", "Alignment", "align", "units_of"]

EPS = 1e-6  # of the published script, in the denominator


@dataclass(frozen=True)
class Aligned:
    """One model: the published values by key, and the exact scores by name, of all neighbours and of those in other episodes."""

    label: str
    rows: Rows
    published: dict[str, float]
    scores: dict[str, Score]
    across_episodes: dict[str, Score]


@dataclass(frozen=True)
class Alignment:
    """Every model against the reference, and all that was done to get there."""

    reference: Rows
    models: tuple[Aligned, ...]
    topk: tuple[int, ...]
    draws: Draws
    episodes: Episodes | None
    notes: tuple[str, ...]


def align(
    models: Sequence[Rows],
    reference: Rows,
    *,
    topk: Sequence[int] = (10,),
    metrics: Sequence[str] = ("cknna",),
    episodes: Episodes | None = None,
    shared: bool = False,
    draws: Draws | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Alignment:
    """Scores of every model's rows as x and the reference's as y; cknna and mutual_knn also as published (eps 1e-6).

    With `episodes`, intervals and null bands draw whole episodes, and metrics of neighbours are given a second time without
    neighbours of the same episode. Memory: the reference and one model at a time besides what the caller holds.
    Raises UsageError for rows that do not pair up, NaN, numbers of neighbours that do not fit; UnknownNameError for a metric that is not there.
    """
    if not models:
        raise UsageError("no model is given", expected="at least one set of features to compare with the reference")
    labels, draws = unique_labels(models), draws or Draws()
    asked = tuple(one for name in dict.fromkeys(metrics) for one in paired_metric(name, topk))
    fits = [match(model, reference, shared=shared) for model in models]  # all before the first is computed
    units = [units_of(episodes, reference, fit) for fit in fits]
    for model, fit, (groups, _) in zip(models, fits, units, strict=True):
        require_topk(topk, len(fit.x), model.where, groups=groups, draws=draws.draws)
    notes = [f"label {label}: the folder's name stands for several files" for label, model in zip(labels, models, strict=True) if label != model.labels[0]]
    notes += [note for one in (reference, *models) for note in one.notes] + [fit.note for fit in fits if fit.note] + [note for _, note in units if note]
    todo = sum(len(asked) + (groups is not None) * sum(one.knows_episodes for one in asked) for groups, _ in units)
    steps = count()

    def step(told: str) -> None:
        if progress:
            progress(next(steps), todo, told)

    against = _Against(reference, asked, draws, device, step)
    done = [against.aligned(label, model, fit, groups) for label, model, fit, (groups, _) in zip(labels, models, fits, units, strict=True)]
    return Alignment(reference, tuple(done), tuple(topk), draws, episodes, tuple(dict.fromkeys(notes)))


def units_of(episodes: Episodes | None, reference: Rows, fit: Match) -> tuple[np.ndarray | None, str]:
    """The episode of every sample, None where nobody knows or they are too few to be drawn; and a note that says the latter."""
    if episodes is None:
        return None, ""
    groups = episodes.of(len(reference.values), reference.sample_ids, reference.where)[fit.y]
    if (known := len(np.unique(groups))) < LEAST_GROUPS:
        return None, f"{episodes.path}: {known} episodes are too few to draw, so rows are taken as independent"
    return groups, ""


@final
class _Against:
    """The reference, prepared once for all models of the same samples, and what is asked of every model."""

    def __init__(self, reference: Rows, asked: Sequence[Asked], draws: Draws, device: str, step: Callable[[str], None]) -> None:
        self.reference, self.asked, self.draws, self.device, self.step = reference, asked, draws, device, step
        self.prepared: dict[tuple[bytes, bool], Any] = {}

    def aligned(self, label: str, model: Rows, fit: Match, groups: np.ndarray | None) -> Aligned:
        x, y = self._sides(model, fit, self.asked, None)
        published = {one.name: _published(one, x, y) for one in self.asked if one.metric in ("cknna", "mutual_knn")}
        scores = self._scores(label, self.asked, x, y, groups)
        apart = [one for one in self.asked if one.knows_episodes] if groups is not None else []
        x, y = self._sides(model, fit, apart, groups) if apart else ({}, {})
        return Aligned(label, model, published, scores, self._scores(label, apart, x, y, groups))

    def _sides(self, model: Rows, fit: Match, asked: Sequence[Asked], episodes: np.ndarray | None) -> tuple[Any, Any]:
        key = fit.y.tobytes(), episodes is None
        if key not in self.prepared:
            self.prepared[key] = prepared(_rows(self.reference, fit.y, fit), asked, episodes=episodes, device=self.device)
        return prepared(_rows(model, fit.x, fit), asked, episodes=episodes, device=self.device), self.prepared[key]

    def _scores(self, label: str, asked: Sequence[Asked], x: Any, y: Any, groups: np.ndarray | None) -> dict[str, Score]:
        found = {}
        for one in asked:
            self.step(f"{label}: {one.name}")
            found[one.name] = measure(one, x, y, episodes=groups, draws=self.draws)
        return found


def _rows(side: Rows, rows: np.ndarray, fit: Match) -> np.ndarray:
    return side.values if fit.whole else side.values[rows]


def _published(one: Asked, x: dict[Any, Any], y: dict[Any, Any]) -> float:
    key, eps = comparison(one.function).prepare, {"eps": EPS} if one.metric == "cknna" else {}
    return float(one.function(x[key], y[key], **one.given(), **eps))
