"""Drift statistics written out from their definitions: one feature, one pair of rows, one bin at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import minimize


def wasserstein_line(x: Sequence[float], y: Sequence[float]) -> float:
    """The integral over (0, 1) of the difference of the quantile functions, on exact fractions of n and m."""
    x, y = sorted(x), sorted(y)
    breaks = sorted({Fraction(i, len(x)) for i in range(len(x) + 1)} | {Fraction(j, len(y)) for j in range(len(y) + 1)})
    total = 0.0
    for low, high in zip(breaks[:-1], breaks[1:], strict=True):
        total += float(high - low) * abs(x[int(low * len(x))] - y[int(low * len(y))])
    return total


def wasserstein(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Per feature, in standard deviations of x, or of all rows where x is constant."""
    found = []
    for a, b in zip(x.T.astype(float).tolist(), y.T.astype(float).tolist(), strict=True):
        spread = np.std(a) if len(set(a)) > 1 else np.std(a + b)
        found.append(wasserstein_line(a, b) / spread if spread else 0.0)
    return found


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, *, projections: int, seed: int) -> float:
    directions = np.random.default_rng(seed).standard_normal((x.shape[1], projections)).T
    lines = [direction / math.sqrt(sum(direction**2)) for direction in directions]
    return float(np.mean([wasserstein_line([float(row @ line) for row in x], [float(row @ line) for row in y]) for line in lines]))


def mean_shift(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Cohen's d per feature; over the spread of all rows where neither sample varies."""
    found = []
    for a, b in zip(x.T.astype(float), y.T.astype(float), strict=True):
        within = ((len(a) - 1) * np.var(a, ddof=1) + (len(b) - 1) * np.var(b, ddof=1)) / (len(a) + len(b) - 2)
        spread = math.sqrt(within) if len(set(a.tolist())) > 1 or len(set(b.tolist())) > 1 else np.std([*a, *b])
        found.append((b.mean() - a.mean()) / spread if spread else 0.0)
    return found


def pair_statistic(x: np.ndarray, y: np.ndarray, cost: Callable[[np.longdouble], np.longdouble], *, biased: bool = False, pairs: bool = False) -> float:
    """2 E c(X, Y) - E c(X, X') - E c(Y, Y') in extended precision, c being a function of the squared distance."""

    def mean(a: np.ndarray, b: np.ndarray, skip: bool) -> np.longdouble:
        costs = [cost(((left - right) ** 2).sum()) for i, left in enumerate(a) for j, right in enumerate(b) if not (skip and i == j)]
        return np.sum(costs) / len(costs)

    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    return float(2 * mean(x, y, pairs) - mean(x, x, not biased) - mean(y, y, not biased))


def energy_distance(x: np.ndarray, y: np.ndarray, *, biased: bool = False, pairs: bool = False) -> float:
    return pair_statistic(x, y, np.sqrt, biased=biased, pairs=pairs)


def median_distance(x: np.ndarray, y: np.ndarray) -> float:
    rows = np.concatenate([x, y]).astype(float)
    return float(np.median([math.dist(rows[i], rows[j]) for i in range(len(rows)) for j in range(i) if math.dist(rows[i], rows[j]) > 0]))


def mmd(x: np.ndarray, y: np.ndarray, *, sigma: float, pairs: bool = False) -> float:
    return pair_statistic(x, y, lambda squared: -np.exp(-squared / (2 * np.longdouble(sigma) ** 2)), pairs=pairs)


def binned_shares(x: Sequence[float], y: Sequence[float], quantiles_of: Sequence[float], bins: int, smoothing: float) -> list[tuple[float, float]]:
    """Smoothed shares of the bins that either sample uses; a value that holds two edges is a bin of its own."""
    ordered = sorted(quantiles_of)
    edges = [ordered[math.ceil(Fraction(k, bins) * len(ordered)) - 1] for k in range(1, bins)]
    atoms = {edge for edge in edges if edges.count(edge) > 1}
    distinct = sorted(set(edges))

    def bin_of(value: float) -> tuple[int, bool]:
        return sum(value > edge for edge in distinct), value in atoms

    x_bins, y_bins = [bin_of(value) for value in x], [bin_of(value) for value in y]
    used = sorted({*x_bins, *y_bins})
    return [tuple((own.count(name) + smoothing) / (len(own) + smoothing * len(used)) for own in (x_bins, y_bins)) for name in used]


def _kl(pairs: list[tuple[float, float]]) -> float:
    return sum(p * (math.log(p / q) if q else math.inf) for p, q in pairs if p)


def binned(x: np.ndarray, y: np.ndarray, kind: str, *, bins: int = 10, smoothing: float = 0.5) -> list[float]:
    """`kl`, `js` or `psi` of each feature."""
    found = []
    for a, b in zip(x.T.tolist(), y.T.tolist(), strict=True):
        pairs = binned_shares(a, b, a if kind == "psi" else a + b, bins, smoothing)
        if kind == "kl":
            found.append(_kl(pairs))
        elif kind == "psi":
            found.append(_kl(pairs) + _kl([(q, p) for p, q in pairs]))
        else:
            found.append((_kl([(p, (p + q) / 2) for p, q in pairs]) + _kl([(q, (p + q) / 2) for p, q in pairs])) / 2)
    return found


def ks(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Largest difference of the distribution functions, and the share of all orders of n and m values without ties that reach it, in whole numbers."""
    n, m = len(x), len(y)
    largest = max(abs(sum(a <= at for a in x) * m - sum(b <= at for b in y) * n) for at in [*x, *y])
    inside = {(0, 0): int(largest > 0)}
    for i in range(n + 1):
        for j in range(m + 1):
            if i or j:
                inside[i, j] = (inside.get((i - 1, j), 0) + inside.get((i, j - 1), 0)) if abs(i * m - j * n) < largest else 0
    return largest / (n * m), float(1 - Fraction(inside[n, m], math.comb(n + m, n)))


def classifier_area(x: np.ndarray, y: np.ndarray, folds_x: np.ndarray, folds_y: np.ndarray, *, components: int, products: int, penalty: float) -> float:
    """Mean area under the curve over folds; components by eigenvectors, the weighted logistic loss minimised by a general optimiser."""
    areas = []
    for test in sorted({*folds_x.tolist()}):
        train = np.concatenate([x[folds_x != test], y[folds_y != test]]).astype(float)
        sign = np.repeat([-1.0, 1.0], [(folds_x != test).sum(), (folds_y != test).sum()])
        mean, spread = train.mean(0), train.std(0)
        z = (train - mean) / spread
        values, vectors = np.linalg.eigh(z.T @ z / len(z))
        axes = vectors[:, ::-1][:, :components] / np.sqrt(values[::-1][:components])

        def expanded(rows: np.ndarray, mean: np.ndarray = mean, spread: np.ndarray = spread, axes: np.ndarray = axes) -> np.ndarray:
            c = ((rows - mean) / spread) @ axes
            return np.column_stack([c, *(c[:, i] * c[:, j] for i in range(products) for j in range(i, products))])

        w = expanded(train)
        centre, scale = w.mean(0), w.std(0)
        w = (w - centre) / scale
        weight = np.where(sign > 0, len(sign) / (2 * (sign > 0).sum()), len(sign) / (2 * (sign < 0).sum()))

        def loss(beta: np.ndarray, w: np.ndarray = w, sign: np.ndarray = sign, weight: np.ndarray = weight) -> tuple[float, np.ndarray]:
            margin = sign * (w @ beta[1:] + beta[0])
            slope = -weight * sign / (1 + np.exp(margin))
            value = (weight * np.logaddexp(0, -margin)).sum() + penalty / 2 * (beta[1:] ** 2).sum()
            return value, np.concatenate([[slope.sum()], w.T @ slope + penalty * beta[1:]])

        beta = minimize(loss, np.zeros(w.shape[1] + 1), jac=True, options={"gtol": 1e-8}).x
        score_x, score_y = (((expanded(rows[own == test]) - centre) / scale) @ beta[1:] for rows, own in ((x, folds_x), (y, folds_y)))
        areas.append(np.mean([1.0 * (b > a) + 0.5 * (b == a) for a in score_x for b in score_y]))
    return float(np.mean(areas))
