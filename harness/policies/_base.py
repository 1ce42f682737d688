"""What every policy does: begin an episode of a task, and answer each observation with an action."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from harness.environments import Environment, Observation, Task

__all__ = ["Policy"]


class Policy(ABC):
    """Acts in an environment; the same seed, task and observations give the same actions."""

    @property
    def name(self) -> str:
        """The name under which it is registered: its module's."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def reset(self, task: Task, environment: Environment, *, seed: int) -> None:
        """Begins an episode, after the environment's own `reset`. A policy that needs pictures or poses asks the environment for them."""

    @abstractmethod
    def act(self, observation: Observation) -> np.ndarray:
        """The action float32 (7,) within [-1, 1]: move x, y, z, turn about x, y, z, gripper (-1 opens, 1 closes)."""
