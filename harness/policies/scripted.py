"""Pick and place by a fixed sequence of moves, from the simulator's own poses: it succeeds often, and fails as a robot fails."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from harness.environments import Environment, Observation, Task
from harness.errors import UsageError
from harness.policies._base import Policy
from harness.policies._scripted_moves import FINGER, grip, motion, opening, pointing_down, rotation

__all__ = ["Scripted"]

OPEN, CLOSED = -1.0, 1.0
CLEARANCE = 0.05  # metres kept above what is passed over


class Phase(NamedTuple):
    """One move: whether the gripper is open, how near is there (None: all steps are used), and at most how many steps it takes."""

    gripper: float
    near: float | None
    steps: int


PHASES = {
    "settle": Phase(OPEN, None, 10),  # things fall into place at first
    "above": Phase(OPEN, 0.012, 60),
    "descend": Phase(OPEN, 0.006, 40),
    "close": Phase(CLOSED, None, 12),  # the fingers take about ten steps
    "lift": Phase(CLOSED, 0.03, 40),
    "carry": Phase(CLOSED, 0.015, 70),
    "lower": Phase(CLOSED, 0.012, 40),
    "release": Phase(OPEN, None, 10),
    "retreat": Phase(OPEN, 0.02, 30),
    "rest": Phase(OPEN, None, 10_000),
}
ORDER = tuple(PHASES)


@final
class Scripted(Policy):
    """Takes the thing of each of the task's goals and puts it where that goal says; a grip that fails is tried `attempts` times.

    Goals that name no place, such as an open drawer, are left undone. A task with no others raises UsageError.
    """

    def __init__(self, *, attempts: int = 1, gain: float = 0.5) -> None:
        if attempts < 1 or not 0.0 < gain <= 1.0:
            raise UsageError("the scripted policy needs a grip and a pace", got=f"attempts {attempts}, gain {gain}", expected="attempts >= 1, 0 < gain <= 1")
        self.attempts, self.gain = attempts, gain

    def reset(self, task: Task, environment: Environment, *, seed: int) -> None:
        self._goals = [goal for goal in task.goals if goal.place]
        if not self._goals:
            raise UsageError("the scripted policy picks and places; this task's goal names no place", where=task.id, got=task.goals, next="--policy random")
        self._world, self._goal = environment, self._goals.pop(0)
        self._tried = 1
        self._enter("settle")

    def act(self, observation: Observation) -> np.ndarray:
        position, hand = observation.state[:3].astype(np.float64), rotation(observation.state[3:6])
        if self._steps == 0:
            self._plan(position, hand)
        phase = PHASES[self.phase]
        action = motion(position, hand, self._target, self._facing, phase.gripper, gain=self.gain)
        self._steps += 1
        there = phase.near is not None and np.linalg.norm(self._target - position) < phase.near
        if there or self._steps >= phase.steps:
            self._enter(self._next())
        return action

    def _enter(self, phase: str) -> None:
        self.phase, self._steps = phase, 0

    def _next(self) -> str:
        """The phase that follows: the grip again when the thing was not lifted with the hand, and the next goal after one is done."""
        if self.phase == "lift" and not self._lifted() and self._tried < self.attempts:
            self._tried += 1
            return "above"
        if self.phase == "retreat" and self._goals:
            self._goal, self._tried = self._goals.pop(0), 1
            return "above"
        return ORDER[min(ORDER.index(self.phase) + 1, len(ORDER) - 1)]

    def _lifted(self) -> bool:
        """Whether the thing is higher than it lay."""
        return self._world.solid(self._goal.thing).bottom > self._before.bottom + 0.02

    def _plan(self, position: np.ndarray, hand: np.ndarray) -> None:
        """Sets where this phase brings the hand, and how it faces there."""
        if self.phase in ("above", "descend"):
            self._reach(position, hand)
        elif self.phase in ("lift", "carry", "lower"):
            self._bring(position)
        else:
            self._target = position + [0.0, 0.0, 2 * CLEARANCE if self.phase == "retreat" else 0.0]
            if self.phase == "settle":
                self._facing = pointing_down(opening(hand), hand)

    def _reach(self, position: np.ndarray, hand: np.ndarray) -> None:
        thing = self._world.solid(self._goal.thing)
        taken = grip(thing, position, hand)
        if self.phase == "descend":
            self._before = thing  # not sooner: it may still have been falling
            self._target = taken.point
        else:
            self._facing = pointing_down(taken.yaw, hand)
            self._target = np.array([*taken.point[:2], thing.top + FINGER + CLEARANCE])

    def _bring(self, position: np.ndarray) -> None:
        thing, place = self._world.solid(self._goal.thing), self._world.solid(self._goal.place)
        if self.phase == "lift" or self._lifted():  # where nothing was lifted, the hand goes on as if it held the thing
            self._held = position - [*thing.centre[:2], thing.bottom]
        over = place.top + CLEARANCE + self._held[2]
        if self.phase == "lift":
            self._target = np.array([*position[:2], max(over, position[2] + CLEARANCE)])
        elif self.phase == "carry":
            self._target = np.array([*(place.centre + self._held)[:2], max(over, position[2])])
        else:
            self._target = np.array([*position[:2], min(place.top + 0.005 + self._held[2], position[2])])
