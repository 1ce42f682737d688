"""What every simulator does: list its tasks, start one, take actions, show pictures when asked, and say whether the task is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

__all__ = ["Environment", "Goal", "Observation", "Solid", "Task"]


class Goal(NamedTuple):
    """One condition of success as the task's file states it: `in`, `milk_1`, `basket_1_contain_region`; a state has no `place`."""

    relation: str
    thing: str
    place: str = ""


@dataclass(frozen=True)
class Task:
    """One task of a suite. `number` counts from 0 in the suite's order; `starts` is how many initial states come with it (0: none)."""

    id: str
    number: int
    name: str
    instruction: str
    suite: str
    file: str
    goals: tuple[Goal, ...] = ()
    starts: int = 0


@dataclass(frozen=True)
class Observation:
    """What a policy may know of a step without a picture.

    `state` float32 (8,) is the hand's position in metres, its orientation as axis times angle in radians, and both fingers' joints in metres.
    """

    state: np.ndarray


class Solid(NamedTuple):
    """Where a thing is, in metres and radians of the world's frame, from the corners of its collision boxes.

    `yaw` is the horizontal direction, in [0, pi), across which the thing is narrowest; it is `width` wide across it and `length` along it.
    """

    centre: np.ndarray
    width: float
    length: float
    bottom: float
    top: float
    yaw: float


class Environment(ABC):
    """A simulator of one suite. It is started by the first `reset` and used `with`, so that it is closed in every case."""

    @property
    def name(self) -> str:
        """The name under which it is registered: its module's."""
        return type(self).__module__.rpartition(".")[2]

    @property
    @abstractmethod
    def tasks(self) -> tuple[Task, ...]:
        """The suite's tasks in its own order."""

    @abstractmethod
    def reset(self, task: Task, *, seed: int, init_state: int) -> Observation:
        """The first observation of a task; the same seed and initial state give the same episode under the same actions.

        Raises UsageError when the task has no such initial state.
        """

    @abstractmethod
    def step(self, action: np.ndarray) -> Observation:
        """The observation after one action (7,) within [-1, 1]: hand moved by x, y, z, turned about x, y, z, gripper (-1 opens, 1 closes).

        No picture is made.
        """

    @abstractmethod
    def render(self) -> Mapping[str, np.ndarray]:
        """RGB uint8 (height, width, 3) by camera of the moment, upright and not mirrored; `primary` sees the scene, `wrist` the hand."""

    @abstractmethod
    def success(self) -> bool:
        """Whether the task is done at this moment."""

    @abstractmethod
    def solid(self, name: str) -> Solid:
        """Where a thing or region of the task's goals is now. Raises UnknownNameError."""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """The packages whose versions decide what happens, each with its version."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the simulator and its pictures' context; nothing happens the second time, and `reset` starts a new one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
