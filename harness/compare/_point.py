"""All that is measured of one place: how far it moved, in which way, and whether its geometry stayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.compare._pattern import Pattern, pattern
from harness.errors import UsageError
from harness.metrics.cka import cka
from harness.metrics.cosine import cosine
from harness.metrics.dead_features import dead_features
from harness.metrics.effective_rank import effective_rank
from harness.metrics.energy_distance import energy_distance
from harness.metrics.ks import ks
from harness.metrics.mean_shift import mean_shift
from harness.metrics.mutual_knn import mutual_knn
from harness.metrics.wasserstein import wasserstein
from harness.noise import relative_change
from harness.scores import Score, score

__all__ = ["LEAST", "MOST", "NOISE", "PointDrift", "point_drift"]

LEAST = 8  # samples
MOST = 1000  # rows, evenly spaced, that what costs more than one pass looks at: geometry, rank and the permutation test
NOISE = 3.0  # noise floors that are still noise: the floor is itself measured on a few samples
NEIGHBOURS = 10
SWAPS = 199
TOP = 5


@dataclass(frozen=True)
class PointDrift:
    """Of the rows x of the first side and y of the second, which are the same samples.

    `change` is the root mean square of y - x over that of x around its mean, `floors` how many noise floors that is. `turned` is 1 - cosine of a
    sample's two rows, 0 to 2, its mean and its largest. `shift` is the root mean square over features of Cohen's d, `wasserstein` the mean over
    features in standard deviations, `ks` the share of features whose distribution differs (5 % false discoveries), entries that moved by no more
    than NOISE floors counted as unmoved. `dead` and `largest` are constant features and largest magnitude before and after. `features` are those
    whose means moved most, in Cohen's d, `samples` those whose rows did, in spreads.

    Over at most MOST evenly spaced rows: `cka`, debiased and linear; `neighbours`, the share of the nearest neighbours that stayed; `rank`, the
    effective one, before and after; `energy_p`, the energy distance's p-value when samples exchange their rows, and `energy_q` the same corrected for
    the number of places. Where samples do not differ there is no geometry: None.
    """

    place: str
    n: int
    width: int
    change: float
    floor: float
    floors: float
    turned: tuple[float, float]
    cka: Score | None
    neighbours: Score | None
    shift: float
    wasserstein: float
    ks: float
    energy_p: float
    energy_q: float
    rank: tuple[float, float] | None
    dead: tuple[int, int]
    largest: tuple[float, float]
    pattern: Pattern
    features: tuple[tuple[int, float], ...]
    samples: tuple[tuple[str, float], ...]

    @property
    def moved(self) -> bool:
        """Whether that is more than noise."""
        return self.floors > NOISE


def point_drift(
    place: str, x: np.ndarray, y: np.ndarray, ids: Sequence[str], *, floor: float, groups: Sequence[str] | None = None, draws: int = 50, seed: int = 0
) -> PointDrift:
    """The whole measurement of one place; intervals from `draws` random halves of the `groups`.

    Raises UsageError for fewer than LEAST samples, rows that do not pair up, or rows that are not finite.
    """
    if len(x) < LEAST:
        raise UsageError("too few samples to compare two models on", where=place, got=len(x), expected=f"at least {LEAST}")
    change, turned, shift = relative_change(y, x).value, cosine(x, y), mean_shift(x, y)
    few = np.linspace(0, len(x) - 1, min(len(x), MOST)).astype(int)
    left, right = x[few], y[few]
    options: dict[str, Any] = {"groups": None if groups is None else [groups[row] for row in few], "draws": draws, "seed": seed}
    varied = bool(np.ptp(left, axis=0).any() and np.ptp(right, axis=0).any())
    geometry = _scored(cka, left, right, permutations=0, **options) if varied else None
    rows = np.sqrt(((y.astype(np.float64) - x) ** 2).mean(1))
    spread = float(np.sqrt((rows**2).mean())) / change if 0 < change < np.inf else 1.0
    p_value = score(energy_distance, left, right, pairs=True, permutations=SWAPS, **{**options, "draws": 0}).p_value if change else 1.0
    return PointDrift(
        place=place,
        n=len(x),
        width=x.shape[1],
        change=change,
        floor=floor,
        floors=change / floor,
        turned=(1 - turned.value, 1 - turned.least) if change else (0.0, 0.0),
        cka=geometry,
        neighbours=_scored(mutual_knn, left, right, permutations=draws, topk=min(NEIGHBOURS, len(few) - 2), **options) if varied else None,
        shift=shift.value if change else 0.0,  # means of equal rows differ by rounding
        wasserstein=wasserstein(x, y).value,
        ks=ks(x, np.where(np.abs(y.astype(np.float64) - x) > NOISE * floor * spread, y, x)).value,
        energy_p=p_value,
        energy_q=p_value,
        rank=(effective_rank(left).value, effective_rank(right).value) if varied else None,
        dead=(int(dead_features(x).value), int(dead_features(y).value)),
        largest=(float(np.abs(x).max()), float(np.abs(y).max())),
        pattern=pattern(x, y, change=change, geometry=None if geometry is None else geometry.value),
        features=tuple((index, float(shift.features[index])) for index in _largest(shift.features if change else np.zeros(1))),
        samples=tuple((ids[row], float(rows[row] / spread)) for row in _largest(rows)),
    )


def _scored(metric: Callable[..., Any], x: np.ndarray, y: np.ndarray, **options: Any) -> Score | None:
    """The score, or None where the metric refuses rows that are nearly all the same to it."""
    try:
        return score(metric, x, y, **options)
    except UsageError:
        return None


def _largest(values: np.ndarray) -> list[int]:
    """Where the TOP largest magnitudes are, zeros left out."""
    order = np.argsort(-np.abs(values), kind="stable")[:TOP]
    return [int(index) for index in order if values[index]]
