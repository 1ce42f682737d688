"""Episodes of a policy acting in a simulator: pictures are made only of the steps that are kept, and a crash is told, not lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import __version__
from harness.environments import Environment, Observation, Task
from harness.errors import HarnessError, MissingError, UsageError
from harness.policies import Policy
from harness.types import Broken, Episode, Sample

__all__ = ["rollout"]


def rollout(
    environment: Environment,
    policy: Policy,
    *,
    tasks: Sequence[int] | None = None,
    episodes: int = 1,
    stride: int = 1,
    seed: int = 0,
    max_steps: int = 300,
) -> Iterator[Episode | Broken]:
    """`episodes` episodes of each task by its number in the suite (None: all), in order; one that crashed is given as Broken.

    Kept are every `stride`-th step from 0 and the last one. A kept step has the observation before its action, and that action, which was
    carried out for one step: with a stride above 1 the actions of the steps between are not recorded, and no action leads from one kept
    step to the next. The last step is that at which the task was first seen done, or step `max_steps` - 1; its action is carried out as well.

    Episode k of a task starts from its initial state (seed * episodes + k) modulo their number, so that other seeds take other states; `seed`
    also sets the simulator, and together with the task and k the policy's draws. The environment is closed at the end, after an error too.
    Raises UsageError, and MissingError when the simulator is not installed.
    """
    for name, value in (("episodes", episodes), ("stride", stride), ("max_steps", max_steps)):
        if value < 1:
            raise UsageError(f"{name} counts from 1", got=value, expected=f"{name} >= 1")
    if seed < 0:
        raise UsageError("a seed is not negative", got=seed, expected="seed >= 0")
    return _episodes(_Run(environment, policy, episodes, stride, seed, max_steps), tasks)


@dataclass(frozen=True)
class _Run:
    """What all episodes of one rollout have in common."""

    environment: Environment
    policy: Policy
    episodes: int
    stride: int
    seed: int
    max_steps: int

    def episode(self, task: Task, number: int) -> Episode:
        """Episode `number` of a task, from its reset to the last step."""
        world, policy = self.environment, self.policy
        start = (self.seed * self.episodes + number) % max(1, task.starts)
        observation = world.reset(task, seed=self.seed, init_state=start)
        policy.reset(task, world, seed=self.seed * self.episodes + number)
        kept: list[Sample] = []
        for step in range(self.max_steps):
            done = world.success()
            action = np.asarray(policy.act(observation), dtype=np.float32)
            if done or step % self.stride == 0 or step == self.max_steps - 1:
                kept.append(_sample(f"{task.id}/{number:03d}", task, step, observation, action, dict(world.render())))
            observation = world.step(action)
            if done:
                break
        fields = {**self._fields(task), "init_state": start, "steps": step + 1}
        return Episode(f"{task.id}/{number:03d}", task.instruction, tuple(kept), done or world.success(), fields)

    def _fields(self, task: Task) -> dict[str, Any]:
        """What a reader of the episode wants to know besides: text and numbers only, so that every format can hold them."""
        versions = {"vla-harness": __version__, **self.environment.versions()}
        return {
            "suite": task.suite,
            "task_id": task.number,
            "task": task.name,
            "file_path": task.file,
            "goal": "; ".join(" ".join(filter(None, goal)) for goal in task.goals),
            "environment": self.environment.name,
            "policy": self.policy.name,
            "seed": self.seed,
            "stride": self.stride,
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        }


def _sample(episode: str, task: Task, step: int, observation: Observation, action: np.ndarray, images: dict[str, np.ndarray]) -> Sample:
    return Sample(f"{episode}/{step:04d}", task.instruction, images, observation.state, action, task.instruction, episode, step)


def _episodes(run: _Run, numbers: Sequence[int] | None) -> Iterator[Episode | Broken]:
    with run.environment as world:
        for task in _chosen(world.tasks, numbers):
            for number in range(run.episodes):
                try:
                    result: Episode | Broken = run.episode(task, number)
                except MissingError:
                    raise  # no other episode would fare better
                except (HarnessError, ArithmeticError, RuntimeError, ValueError) as error:  # what a simulator or a policy raises when it breaks
                    world.close()  # what is left of it may be damaged; the next reset starts a new one
                    name = f"{task.id}/{number:03d}"
                    result = Broken(name, f"{type(error).__name__}: {error}", name)
                yield result


def _chosen(tasks: Sequence[Task], numbers: Sequence[int] | None) -> list[Task]:
    """The tasks with these numbers. Raises UsageError for one that the suite does not have."""
    known = {task.number: task for task in tasks}
    chosen = list(known) if numbers is None else list(numbers)
    if wrong := [number for number in chosen if number not in known]:
        raise UsageError("the suite has no such task", got=wrong[0], expected=f"{min(known, default=0)} to {max(known, default=-1)}")
    return [known[number] for number in chosen]
