"""What does a metric of predictions against targets give when every prediction is perfect?"""

from __future__ import annotations

import numpy as np

from harness import registry
from harness.types import Measurement

__all__ = ["metric_ceiling"]


def metric_ceiling(*, metric: str, samples: int, tasks: int, width: int = 64, seed: int = 0) -> Measurement:
    """The metric's value on perfect predictions of `samples` rows that share the targets of `tasks` tasks; 1 if it is sound."""
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(tasks, width))[np.arange(samples) % tasks]
    measure = registry.load("metrics", metric)
    return Measurement(measure(targets, targets), detail=f"{samples} perfect predictions over {tasks} tasks")
