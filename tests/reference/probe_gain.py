"""The gain of one representation over another, row by row from the written-out probe."""

from __future__ import annotations

import numpy as np
from reference.linear_probe import held_out_hits, interval


def probe_gain(x: np.ndarray, control: np.ndarray, targets: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    pairs = zip(held_out_hits(x, targets, groups, seed=seed), held_out_hits(control, targets, groups, seed=seed), strict=True)
    gains = [float(hit) - float(control_hit) for hit, control_hit in pairs]
    return (sum(gains) / len(gains), *interval(gains, groups, seed=seed))
