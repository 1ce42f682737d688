"""How well do n recorded samples tell a statistic of the features, when frames of one episode are alike?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from harness.sampling import interval_width
from harness.types import Features, Measurement

__all__ = ["interval_at"]


def _mean(rows: np.ndarray) -> float:
    return float(rows.mean())


def _spread(rows: np.ndarray) -> float:
    """Root of the features' mean variance over samples."""
    return float(np.sqrt(rows.var(0).mean()))


STATISTICS: Mapping[str, Callable[[np.ndarray], float]] = {"mean": _mean, "spread": _spread}


def interval_at(found: Features, *, n: int, statistic: str, of: str, seed: int) -> Measurement:
    """Of the 95 % interval of a statistic of `n` samples, drawn by whole episodes: `precision`, its half width over the statistic's
    value, or `clustering`, its width over that which independent samples would have (the root of the design effect).

    An id says its episode before its last slash. Features that do not vary have no interval: their precision is infinite, clustering 0.
    """
    compute, episodes = STATISTICS[statistic], [identity.rpartition("/")[0] for identity in found.sample_ids]
    (by_episode,), (alone,) = (interval_width(found.values, groups, compute, [n], seed) for groups in (episodes, None))
    value, rows = compute(found.values), found.values
    flat = by_episode.width < 1e-9 * max(abs(value), float(np.abs(rows).max()))
    detail = f"{statistic} {value:.4g}, by {len(set(episodes))} episodes {by_episode.width:.3g} wide, as if independent {alone.width:.3g}, from {len(rows)} samples"
    if of == "precision":
        return Measurement(float("inf") if flat else by_episode.width / 2 / abs(value), detail=detail, control=alone.width / 2 / max(abs(value), 1e-30))
    return Measurement(0.0 if flat else by_episode.width / alone.width, detail=detail, control=1.0)
