"""All that is measured of one place: how far it moved, in which way, and whether its geometry stayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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

__all__ = ["LEAST", "PointDrift", "moved_by", "point_drift"]

LEAST = 8  # samples
NEIGHBOURS = 10
MOST = 1000  # rows that the permutation test looks at
TOP = 5
ANOTHER_BASIS, SAME_GEOMETRY, SAME_UNIT = 0.5, 0.99, 0.99  # relative change above which a basis is suspected, CKA, correlation of a unit and its partner


@dataclass(frozen=True)
class PointDrift:
    """Of the rows x of the first side and y of the second, which are the same samples.

    `change` is the root mean square of y - x over that of x around its mean, `floors` how many noise floors that is. `cosine` is the mean and
    the least over samples, `cka` debiased and linear, `neighbours` the share of the nearest neighbours that stayed. `shift` is the root mean square
    over features of Cohen's d, `wasserstein` the mean over features in standard deviations, `ks` the share of features whose distribution differs
    (5 % false discoveries), `energy_p` the energy distance's p-value when samples exchange their rows. `rank`, `dead` and `largest` are effective rank,
    constant features and largest magnitude before and after. Where samples do not differ there is no geometry: None. `by_shift` and `by_scale` are the shares of the squared change that one
    vector added, and then one factor, explain; `basis` says whether the same geometry stands in another basis.
    """

    place: str
    n: int
    width: int
    change: float
    floor: float
    floors: float
    cosine: tuple[float, float]
    cka: Score | None
    neighbours: Score | None
    shift: float
    wasserstein: float
    ks: float
    energy_p: float
    rank: tuple[float, float] | None
    dead: tuple[int, int]
    largest: tuple[float, float]
    by_shift: float
    by_scale: float
    basis: str | None
    features: tuple[tuple[int, float], ...]
    samples: tuple[tuple[str, float], ...]


def point_drift(
    place: str, x: np.ndarray, y: np.ndarray, ids: Sequence[str], *, floor: float, groups: Sequence[str] | None = None, draws: int = 50, seed: int = 0
) -> PointDrift:
    """The whole measurement of one place. Raises UsageError for fewer than LEAST samples or rows that are not finite."""
    change = relative_change(y, x).value
    turned = cosine(x, y)
    topk = min(NEIGHBOURS, len(x) - 2)
    few = np.linspace(0, len(x) - 1, min(len(x), MOST)).astype(int)
    some = None if groups is None else [groups[row] for row in few]
    shift = mean_shift(x, y)
    varied = bool(np.ptp(x, axis=0).any() and np.ptp(y, axis=0).any())
    geometry = _scored(cka, x, y, groups=groups, draws=draws, permutations=0, seed=seed) if varied else None
    order = np.argsort(-np.abs(np.nan_to_num(shift.features)), kind="stable")[:TOP]
    rows, spread = np.sqrt(((y.astype(np.float64) - x) ** 2).mean(1)), _spread(x)
    furthest = np.argsort(-rows, kind="stable")[:TOP]
    return PointDrift(
        place=place,
        n=len(x),
        width=x.shape[1],
        change=change,
        floor=floor,
        floors=change / floor,
        cosine=(turned.value, turned.least),
        cka=geometry,
        neighbours=_scored(mutual_knn, x, y, groups=groups, draws=draws, permutations=draws, seed=seed, topk=topk) if varied else None,
        shift=shift.value,
        wasserstein=wasserstein(x, y).value,
        ks=ks(x, y).value,
        energy_p=score(energy_distance, x[few], y[few], groups=some, pairs=True, draws=0, permutations=199, seed=seed).p_value if change else 1.0,
        rank=(effective_rank(x[few]).value, effective_rank(y[few]).value) if varied else None,
        dead=(int(dead_features(x).value), int(dead_features(y).value)),
        largest=(float(np.abs(x).max()), float(np.abs(y).max())),
        **_explained(x, y),
        basis=_basis(x, y) if geometry is not None and change > ANOTHER_BASIS and geometry.value > SAME_GEOMETRY else None,
        features=tuple((int(index), float(shift.features[index])) for index in order if shift.features[index]),
        samples=tuple((ids[row], float(rows[row] / spread)) for row in furthest if rows[row]),
    )


def _scored(metric: Callable[..., Any], x: np.ndarray, y: np.ndarray, **options: Any) -> Score | None:
    """The score, or None where all samples but a few are the same to the metric."""
    try:
        return score(metric, x, y, **options)
    except UsageError:
        return None


def moved_by(x: np.ndarray, y: np.ndarray) -> float:
    """The relative change alone."""
    return relative_change(y, x).value


def _spread(x: np.ndarray) -> float:
    return float(np.sqrt(((x.astype(np.float64) - x.mean(0, dtype=np.float64)) ** 2).mean())) or 1.0


def _explained(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Shares of the squared change that adding one vector, and then one factor, explain; 0 where nothing changed."""
    left, right = x.astype(np.float64), y.astype(np.float64)
    whole = float(((right - left) ** 2).sum())
    if whole == 0:
        return {"by_shift": 0.0, "by_scale": 0.0}
    left, right = left - left.mean(0), right - right.mean(0)
    centred, own = float(((right - left) ** 2).sum()), float((left**2).sum())
    scaled = float((right**2).sum()) - float((left * right).sum()) ** 2 / own if own else centred
    return {"by_shift": 1 - centred / whole, "by_scale": (centred - scaled) / whole}


def _basis(x: np.ndarray, y: np.ndarray) -> str | None:
    """How a basis differs whose geometry is the same: its units are permuted when nearly all have a partner elsewhere, else turned."""
    left, right = (_standardised(rows) for rows in (x, y))
    partners = np.empty(left.shape[1], int)
    best = np.empty(left.shape[1])
    for start in range(0, left.shape[1], 512):
        block = np.abs(left[:, start : start + 512].T @ right) / len(left)
        partners[start : start + 512], best[start : start + 512] = block.argmax(1), block.max(1)
    alive = left.any(0)
    if (partners == np.arange(len(partners)))[alive].mean() > 0.5:
        return None
    return "units permuted" if (best[alive] > SAME_UNIT).mean() > 0.9 else "rotated"


def _standardised(x: np.ndarray) -> np.ndarray:
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    deviation = centred.std(0)
    return centred / np.where(deviation == 0, 1, deviation)
