"""A metric of two arrays as evidence: its value, how far that would move with other samples, and what chance alone gives.

The interval comes from random halves of the samples. Drawn without replacement, a half's value spreads about as much as the value of a
fresh sample of full size does (Politis & Romano, 1994, with the finite-population factor), and no sample is its own neighbour as
it would be in a bootstrap with replacement. The null band comes from permutations: of who belongs to whom for paired metrics,
of who belongs to which sample otherwise. Both treat the groups of samples (episodes) as the units; paired groups of different length
are cut to one for the null and the p-value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from harness.errors import UsageError
from harness.metrics import Comparison, comparison

__all__ = ["LEAST_GROUPS", "Score", "score"]

LEVEL = 0.95
LEAST_GROUPS = 4  # with fewer, chance cannot be told from evidence


class Score(NamedTuple):
    """A value in the metric's unit with its 95 % interval, the 95 % band of its null, and the share of the null at least as extreme.

    Extreme is towards the value of identical inputs for paired metrics (more alike than chance), away from it for two samples
    (further apart than chance). `p_value` counts the value itself, so it is never 0. NaN where a count of 0 was asked for, and for
    an interval where the metric refuses half of the halves.
    """

    value: float
    low: float
    high: float
    null_low: float
    null_high: float
    p_value: float
    n: int


def score(
    metric: Callable[..., Any],
    x: Any,
    y: Any,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    pairs: bool = False,
    permutations: int = 200,
    draws: int = 200,
    seed: int = 0,
    **options: Any,
) -> Score:
    """The metric of `x` and `y`, arrays (n, d) or what the metric's `prepare` made of them, with interval and null.

    `groups` names each row's group; with `pairs` rows of both are the same samples, and the null of a two-sample metric
    exchanges a sample's two rows instead of pooling all rows, and a metric with an option `pairs` is told. `options` go to the metric.
    Raises UsageError for a metric that compares nothing, fewer than LEAST_GROUPS groups, or two samples in groups that are not pairs.
    """
    found = comparison(metric)
    if found is None:
        raise UsageError("this metric does not compare two arrays", got=getattr(metric, "__name__", metric), expected="one marked paired or two_sample")
    if found.prepare is not None:
        x, y = (side if hasattr(side, "take") and not isinstance(side, np.ndarray) else found.prepare(side, **options) for side in (x, y))
    together = pairs or found.kind == "paired"
    if pairs and "pairs" in inspect.signature(metric).parameters:  # the metric itself leaves twins out, or keeps them together
        options["pairs"] = True
    if together and len(x) != len(y):
        raise UsageError("the two do not describe the same samples", got=f"{len(x)} and {len(y)} rows", expected="one row of each for every sample")
    if groups is not None and not together:
        raise UsageError("groups need rows of the same samples on both sides", next="score(…, pairs=True)")
    units = _units(groups, len(x))
    rng = np.random.default_rng(seed)
    value = _value(metric(x, y, **options))
    halves = _measured(metric, _halves(x, y, units, draws, rng, together=together), options)
    null, observed = _null(metric, found, x, y, units, permutations, rng, pairs=pairs, options=options)
    low, high = _interval(value, halves if 2 * len(halves) > draws else [])
    null_low, null_high = np.quantile(null, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(null) else (np.nan, np.nan)
    return Score(value, low, high, float(null_low), float(null_high), _p_value(value if observed is None else observed, null, found), min(len(x), len(y)))


def _measured(metric: Callable[..., Any], halves: Iterator[tuple[Any, Any]], options: dict[str, Any]) -> list[float]:
    """The metric of each half that it can be asked of: a half may hold equal rows only."""
    found = []
    for sides in halves:
        with suppress(UsageError):
            found.append(_value(metric(*sides, **options)))
    return found


def _value(result: Any) -> float:
    return float(getattr(result, "value", result))


def _units(groups: Sequence[Any] | np.ndarray | None, count: int) -> list[np.ndarray]:
    """The rows of every group. Raises UsageError."""
    if groups is None:
        return list(np.arange(count)[:, None])
    if len(groups) != count:
        raise UsageError("every row needs a group", got=f"{len(groups)} groups", expected=f"{count}, one for each row")
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    units = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    if len(units) < LEAST_GROUPS:
        raise UsageError("too few groups to tell chance from evidence", got=len(units), expected=f"at least {LEAST_GROUPS}", next="score without groups, and say so")
    return units


def _taken(side: Any, rows: np.ndarray) -> Any:
    return side[rows] if isinstance(side, np.ndarray) else side.take(rows)


def _halves(x: Any, y: Any, units: list[np.ndarray], draws: int, rng: np.random.Generator, *, together: bool) -> Iterator[tuple[Any, Any]]:
    """Both sides of random halves of the units: the same rows of both where they are the same samples."""
    other = units if together else list(np.arange(len(y))[:, None])
    for _ in range(draws):
        rows = _half(units, rng)
        yield _taken(x, rows), _taken(y, rows if together else _half(other, rng))


def _half(units: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    chosen = rng.permutation(len(units))[: (len(units) + 1) // 2]
    return np.sort(np.concatenate([units[index] for index in chosen]))


def _interval(value: float, halves: Sequence[float]) -> tuple[float, float]:
    """The halves' spread around their own mean, laid around the value: halves of a biased statistic are centred elsewhere."""
    if not halves:
        return float("nan"), float("nan")
    low, high = np.quantile(np.asarray(halves) - np.mean(halves), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(value + low), float(value + high)


def _null(
    metric: Callable[..., Any],
    found: Comparison,
    x: Any,
    y: Any,
    units: list[np.ndarray],
    count: int,
    rng: np.random.Generator,
    *,
    pairs: bool,
    options: dict[str, Any],
) -> tuple[np.ndarray, float | None]:
    """The metric's values under random permutations (count,), and the value they stand beside where that is one of fewer rows."""
    if found.kind == "paired":  # of whole groups, so that neighbouring frames stay neighbours
        even = _even(units)
        straight, orders = _taken(x, np.concatenate(even)), (np.concatenate([even[index] for index in rng.permutation(len(even))]) for _ in range(count))
        observed = _value(metric(straight, _taken(y, np.concatenate(even)), **options)) if count and even is not units else None
        return np.asarray([_value(metric(straight, _taken(y, order), **options)) for order in orders]), observed
    pooled = np.concatenate([x, y])
    labels = _swapped(units, len(x), count, rng) if pairs else _pooled(len(x), len(y), count, rng)
    if found.relabelled is not None and count:
        return np.asarray(found.relabelled(pooled, labels, **options), np.float64), None
    if pairs:  # a row stays beside its twin
        keeps = [label[: len(x), None] for label in labels]
        return np.asarray([_value(metric(np.where(keep, x, y), np.where(keep, y, x), **options)) for keep in keeps]), None
    return np.asarray([_value(metric(pooled[label], pooled[~label], **options)) for label in labels]), None


def _even(units: list[np.ndarray]) -> list[np.ndarray]:
    """Groups of one length, which can be exchanged: those at least as long as the length that keeps most rows, cut to it at even steps.

    Groups of different length would come to lie across each other's borders, and the true order alone would not.
    """
    lengths = np.array([len(unit) for unit in units])
    fitting = [length for length in np.unique(lengths) if (lengths >= length).sum() >= max(LEAST_GROUPS, len(units) / 2)]
    length = max(fitting, key=lambda length: length * (lengths >= length).sum())
    if (lengths == length).all():
        return units
    return [unit[np.linspace(0, len(unit) - 1, length).round().astype(int)] for unit in units if len(unit) >= length]


def _pooled(first: int, second: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which pooled rows are the first sample (count, first + second): any as many of them."""
    return rng.permuted(np.tile(np.arange(first + second) < first, (count, 1)), axis=1)


def _swapped(units: list[np.ndarray], rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """The same (count, 2 rows), where each unit's rows are exchanged with the same rows of the other side, or not."""
    kept = np.empty((count, rows), bool)
    for unit in units:
        kept[:, unit] = rng.random((count, 1)) < 0.5
    return np.concatenate([kept, ~kept], axis=1)


def _p_value(value: float, null: np.ndarray, found: Comparison) -> float:
    if not len(null):
        return float("nan")
    rising = (found.kind == "paired") == (found.closer == "higher")  # which side of the null is evidence
    extreme = null >= value if rising else null <= value
    return float((1 + extreme.sum()) / (1 + len(null)))
