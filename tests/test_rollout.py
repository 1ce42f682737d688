"""Rollouts: which steps are kept, what is drawn, what an episode says of itself, and what happens when one breaks. No simulator is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.environments import Environment, Goal, Observation, Solid, Task
from harness.errors import DamagedError, HarnessError, MissingError, UsageError
from harness.policies import Policy
from harness.policies.random import Random
from harness.rollout import rollout
from harness.types import Broken, Episode

TASKS = tuple(Task(f"line/{n:02d}", n, f"go_to_{n}", f"go to {n}", "line", f"line/go_to_{n}.bddl", (Goal("at", "point", f"mark_{n}"),), 5) for n in (1, 2, 3))


class Line(Environment):
    """A point on a line that an action moves; a task is done where the point reaches the task's number. It tells what was asked of it."""

    def __init__(self, *, breaks: dict[tuple[int, int], Exception] | None = None) -> None:
        self.breaks = breaks or {}
        self.calls: list[str] = []
        self.resets: list[tuple[int, int, int]] = []
        self.drawn: list[float] = []
        self.closed = 0

    @property
    def tasks(self) -> tuple[Task, ...]:
        return TASKS

    def reset(self, task: Task, *, seed: int, init_state: int) -> Observation:
        self.task, self.time, self.place = task, 0, 0.01 * init_state
        self.resets.append((task.number, seed, init_state))
        return self._observation()

    def step(self, action: np.ndarray) -> Observation:
        if error := self.breaks.get((self.task.number, self.time)):
            raise error
        self.place += float(action[0])
        self.time += 1
        self.calls.append("step")
        return self._observation()

    def render(self) -> dict[str, np.ndarray]:
        self.calls.append("render")
        self.drawn.append(self.place)
        return {name: np.full((2, 2, 3), self.time, np.uint8) for name in ("primary", "wrist")}

    def success(self) -> bool:
        return self.place >= self.task.number

    def solid(self, name: str) -> Solid:
        return Solid(np.zeros(3), 0.0, 0.0, 0.0, 0.0, 0.0)

    def versions(self) -> dict[str, str]:
        return {"line": "1.0"}

    def close(self) -> None:
        self.closed += 1

    def _observation(self) -> Observation:
        return Observation(np.array([self.place] * 8, np.float32))


class Steady(Policy):
    """Moves by `pace` in every step."""

    def __init__(self, pace: float = 0.25) -> None:
        self.pace = pace
        self.seeds: list[int] = []

    def reset(self, task: Task, environment: Environment, *, seed: int) -> None:
        self.seeds.append(seed)

    def act(self, observation: Observation) -> np.ndarray:
        return np.array([self.pace, 0, 0, 0, 0, 0, -1.0])


def only(records: Iterator[Episode | Broken]) -> Episode:
    (episode,) = records
    assert isinstance(episode, Episode)
    return episode


@pytest.mark.parametrize(
    ("pace", "stride", "limit", "kept", "success"),
    [
        (0.25, 1, 50, [0, 1, 2, 3, 4], True),  # done after four moves, and seen at step 4
        (0.25, 2, 50, [0, 2, 4], True),  # the last step lies on the stride
        (0.25, 3, 50, [0, 3, 4], True),
        (0.25, 100, 50, [0, 4], True),
        (0.25, 3, 4, [0, 3], True),  # done by the very last action
        (0.25, 2, 4, [0, 2, 3], True),
        (0.25, 2, 3, [0, 2], False),
        (0.0, 4, 10, [0, 4, 8, 9], False),
        (0.0, 1, 1, [0], False),
    ],
)
def test_every_stride_th_step_is_kept_and_the_last(pace: float, stride: int, limit: int, kept: list[int], success: bool) -> None:
    world = Line()
    episode = only(rollout(world, Steady(pace), tasks=[1], stride=stride, max_steps=limit))
    assert ([sample.step for sample in episode.steps], episode.success) == (kept, success)
    assert episode.fields["steps"] == kept[-1] + 1 == world.calls.count("step")


def test_pictures_are_made_of_the_kept_steps_only_and_before_their_actions() -> None:
    world = Line()
    episode = only(rollout(world, Steady(), tasks=[1], stride=3))
    assert world.calls == ["render", "step", "step", "step", "render", "step", "render", "step"]
    assert [int(sample.images["primary"][0, 0, 0]) for sample in episode.steps] == [0, 3, 4]
    assert [float(sample.state[0]) for sample in episode.steps] == world.drawn == [0.0, 0.75, 1.0]


def test_a_sample_says_everything_of_its_step() -> None:
    sample = only(rollout(Line(), Steady(), tasks=[2], stride=5)).steps[1]
    assert (sample.id, sample.episode, sample.step) == ("line/02/000/0005", "line/02/000", 5)
    assert (sample.instruction, sample.group) == ("go to 2", "go to 2")
    assert sample.images.keys() == {"primary", "wrist"}
    assert (sample.state.dtype, sample.state.shape) == (np.float32, (8,))
    assert (sample.action.dtype, sample.action.tolist()) == (np.float32, [0.25, 0, 0, 0, 0, 0, -1])


def test_an_episode_says_how_it_was_made() -> None:
    episode = only(rollout(Line(), Steady(), tasks=[3], stride=2, seed=7))
    expected = {
        "suite": "line", "task_id": 3, "task": "go_to_3", "file_path": "line/go_to_3.bddl", "goal": "at point mark_3", "seed": 7, "init_state": 2, "stride": 2,
        "environment": Line.__module__.rpartition(".")[2], "policy": Steady.__module__.rpartition(".")[2], "steps": 13,
    }  # fmt: skip
    assert {key: episode.fields[key] for key in expected} == expected
    assert episode.fields["versions"].startswith("vla-harness ") and episode.fields["versions"].endswith(", line 1.0")
    assert all(isinstance(value, str | int) for value in episode.fields.values())  # what every format can hold


def test_tasks_and_episodes_come_in_order_with_ids_that_differ() -> None:
    found = list(rollout(Line(), Steady(1.0), episodes=2))
    assert [episode.id for episode in found] == ["line/01/000", "line/01/001", "line/02/000", "line/02/001", "line/03/000", "line/03/001"]
    assert [episode.id for episode in rollout(Line(), Steady(1.0), tasks=[3, 1])] == ["line/03/000", "line/01/000"]


@pytest.mark.parametrize(("seed", "starts"), [(0, [0, 1]), (1, [2, 3]), (2, [4, 0])])
def test_a_seed_takes_the_next_initial_states_and_other_draws(seed: int, starts: list[int]) -> None:
    world, policy = Line(), Steady(1.0)
    list(rollout(world, policy, tasks=[1], episodes=2, seed=seed))
    assert world.resets == [(1, seed, start) for start in starts]
    assert policy.seeds == [2 * seed, 2 * seed + 1]


def test_a_task_without_initial_states_starts_from_its_own() -> None:
    class Plain(Line):
        tasks = (replace(TASKS[0], starts=0),)

    world = Plain()
    list(rollout(world, Steady(1.0), episodes=3))
    assert [start for _, _, start in world.resets] == [0, 0, 0]


def test_random_actions_repeat_with_their_seed_and_differ_without() -> None:
    def actions(seed: int) -> list[list[float]]:
        return [sample.action.tolist() for episode in rollout(Line(), Random(), tasks=[1, 2], episodes=2, seed=seed, max_steps=3) for sample in episode.steps]

    first = actions(0)
    assert first == actions(0) != actions(1)
    assert len({tuple(action) for action in first}) == len(first)  # no two tasks or episodes share their draws
    assert np.abs(first).max() <= 1.0 < 2 * np.abs(first).max()


def test_random_actions_stay_within_their_scale() -> None:
    policy = Random(scale=0.1)
    policy.reset(TASKS[0], Line(), seed=0)
    drawn = np.array([policy.act(Observation(np.zeros(8))) for _ in range(200)])
    assert 0.09 < np.abs(drawn).max() <= 0.1 and drawn.dtype == np.float32
    with pytest.raises(UsageError, match="scale 1.5"):
        Random(scale=1.5)


@pytest.mark.parametrize(
    "error", [DamagedError("MuJoCo gave up"), RuntimeError("no context"), ValueError("NaN"), ZeroDivisionError("by zero"), UsageError("no place")]
)
def test_an_episode_that_breaks_is_told_and_the_others_go_on(error: Exception) -> None:
    world = Line(breaks={(2, 1): error})
    found = list(rollout(world, Steady(), episodes=2))
    assert [type(record) for record in found] == [Episode, Episode, Broken, Broken, Episode, Episode]
    assert found[2] == Broken("line/02/000", f"{type(error).__name__}: {error}", "line/02/000")
    assert world.closed == 3  # after each crash, so that the next episode gets a new simulator, and at the end


@pytest.mark.parametrize("error", [MissingError("the simulator is not installed"), TypeError("a mistake of ours"), KeyboardInterrupt()])
def test_what_concerns_every_episode_is_raised_and_the_simulator_closed(error: BaseException) -> None:
    world = Line(breaks={(1, 1): error})
    with pytest.raises(type(error)):
        list(rollout(world, Steady()))
    assert world.closed == 1


def test_the_simulator_is_closed_when_nobody_asks_for_more() -> None:
    world = Line()
    records = rollout(world, Steady())
    next(records)
    assert world.closed == 0
    records.close()
    assert world.closed == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"episodes": 0}, "episodes counts from 1"),
        ({"stride": 0}, "stride counts from 1"),
        ({"max_steps": -1}, "max_steps counts from 1"),
        ({"seed": -1}, "not negative"),
    ],
)
def test_a_wrong_number_is_refused_before_anything_starts(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        rollout(Line(), Steady(), **options)


def test_a_task_that_the_suite_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(HarnessError, match=r"no such task[\s\S]*got +9[\s\S]*1 to 3"):
        next(rollout(Line(), Steady(), tasks=[1, 9]))
