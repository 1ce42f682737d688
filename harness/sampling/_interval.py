"""How wide a statistic's interval is at n samples, when samples of one episode are alike: the question whether 500 are enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError

__all__ = ["Interval", "interval_width"]


class Interval(NamedTuple):
    """A percentile interval of a statistic at about `n` samples, drawn as `episodes` whole episodes.

    `extrapolated` says that the data hold fewer episodes than that, so that the width is a forecast.
    """

    n: int
    episodes: int
    low: float
    high: float
    extrapolated: bool

    @property
    def width(self) -> float:
        """high - low, in the statistic's unit."""
        return self.high - self.low


def interval_width(
    values: Float[np.ndarray, "n d"],
    groups: Sequence[str] | None,
    statistic: Callable[[np.ndarray], float],
    sizes: Sequence[int],
    seed: int,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[Interval, ...]:
    """One interval of `statistic(rows)` for each n of `sizes`, by the cluster bootstrap: whole episodes are drawn with replacement.

    As many are drawn as hold n samples on average (at least one), from all episodes of `values`; `groups` names the episode of each row, None
    takes every row for one of its own, which is too narrow where rows of an episode are alike (Davison and Hinkley 1997, section 3.8; Field and
    Welsh 2007, J. R. Stat. Soc. B 69). With G episodes widths are too small by about the root of 1 - 1/G. Not for a minimum or a maximum: the
    bootstrap of an extreme does not converge (Bickel and Freedman 1981, Ann. Stat. 9). A statistic of several numbers takes one call for each.
    Raises UsageError for fewer than two episodes, for groups that do not fit, for a size below 1, and when the statistic is not finite.
    """
    order, starts, counts = _rows_by_episode(values, groups)
    if wrong := [size for size in sizes if size < 1]:
        raise UsageError("there is no interval at this size", got=wrong[0], expected="at least 1 sample")
    if not 0 < confidence < 1 or resamples < 2:
        got = f"confidence={confidence}, resamples={resamples}"
        raise UsageError("no interval has this confidence", got=got, expected="between 0 and 1, at least 2 resamples")
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    found = []
    for size in sizes:
        episodes = max(1, round(size * len(starts) / len(values)))
        random = np.random.default_rng([seed, size])  # the interval at one n does not depend on the others asked for
        draws = []
        for _ in range(resamples):
            drawn = random.integers(len(starts), size=episodes)
            ends = np.cumsum(counts[drawn])
            rows = order[np.repeat(starts[drawn] - ends + counts[drawn], counts[drawn]) + np.arange(ends[-1])]
            draws.append(_finite(statistic(values[rows])))
        low, high = (float(bound) for bound in np.quantile(draws, tails))
        found.append(Interval(size, episodes, low, high, episodes > len(starts)))
    return tuple(found)


class _Rows(NamedTuple):
    """Row numbers, those of one episode together; where each episode starts among them, and how many it has."""

    order: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


def _rows_by_episode(values: np.ndarray, groups: Sequence[str] | None) -> _Rows:
    if values.ndim != 2 or groups is not None and len(groups) != len(values):
        got = f"values {values.shape}, {'no' if groups is None else len(groups)} groups"
        raise UsageError("rows and groups do not fit", got=got, expected="(n, d) and n names")
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    _, own, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        got = f"{len(counts)} episodes, {len(values)} samples"
        raise UsageError("an interval needs episodes that differ", got=got, expected="two or more", next="take more episodes")
    return _Rows(np.argsort(own, kind="stable"), np.cumsum(counts) - counts, counts)


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise UsageError("a statistic is not finite on a resample", got=value, expected="a number", next="look for missing values in the features")
    return float(value)
