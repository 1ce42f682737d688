"""Actions drawn evenly from all there are: the control that must not solve a task."""

from __future__ import annotations

from typing import final

import numpy as np

from harness.environments import Environment, Observation, Task
from harness.errors import UsageError
from harness.policies._base import Policy

__all__ = ["Random"]


@final
class Random(Policy):
    """Independent uniform actions within [-scale, scale], another sequence for every seed and task."""

    def __init__(self, *, scale: float = 1.0) -> None:
        if not 0.0 <= scale <= 1.0:
            raise UsageError("actions lie within [-1, 1]", got=f"scale {scale}", expected="0 to 1")
        self.scale = scale
        self._generator = np.random.default_rng(0)

    def reset(self, task: Task, environment: Environment, *, seed: int) -> None:
        self._generator = np.random.default_rng([seed, task.number])

    def act(self, observation: Observation) -> np.ndarray:
        return self._generator.uniform(-self.scale, self.scale, 7).astype(np.float32)
