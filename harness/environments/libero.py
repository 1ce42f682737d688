"""The LIBERO tasks on MuJoCo: both cameras, proprioception as the published data has it, pictures only when asked for."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, final

import numpy as np

from harness.environments import _libero_package as installed
from harness.environments._base import Environment, Observation, Solid, Task
from harness.environments._libero_space import axis_angle, box_corners, solid, upright
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError

__all__ = ["Libero"]

CAMERAS = {"primary": "agentview", "wrist": "robot0_eye_in_hand"}


@final
class Libero(Environment):
    """One suite, such as `libero_object`, `libero_spatial`, `libero_goal`, `libero_10` or one of LIBERO-PRO's; pictures are `size` pixels square.

    A step without a picture takes about 0.01 s on a CPU core, the pictures of both cameras 0.15 s. The pictures are what a person would see;
    the training data of OpenVLA has them turned by 180 degrees, so mirrored besides. `reset` seeds numpy's global generator, as LIBERO does.
    The first use raises MissingError without the package and UnknownNameError for a suite that it does not have.
    """

    def __init__(self, *, suite: str = "libero_object", size: int = 224) -> None:
        if size < 1:
            raise UsageError("a picture has at least one pixel", got=size, expected="size >= 1")
        self.suite, self.size = suite, size
        self._started: tuple[int, Any] | None = None

    @cached_property
    def _package(self) -> installed.Package:
        return installed.package()

    @cached_property
    def _suite(self) -> tuple[tuple[Task, ...], tuple[Any, ...], tuple[np.ndarray, ...]]:
        return installed.tasks(self._package, self.suite)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self._suite[0]

    def reset(self, task: Task, *, seed: int, init_state: int) -> Observation:
        if task not in self.tasks:
            raise UsageError("this task belongs to another suite", where=self.suite, got=task.id, expected=f"{self.tasks[0].id} to {self.tasks[-1].id}")
        if not 0 <= init_state < task.starts:
            expected = f"0 to {task.starts - 1}" if task.starts else "a task that comes with initial states; the package has none for this one"
            raise UsageError("there is no such initial state", where=task.id, got=init_state, expected=expected)
        if self._started is None or self._started[0] != task.number:
            self.close()
            _refuse_tensorflow()
            with self._told(task.id):
                self._start(task)
        simulator = self._simulator
        with self._told(task.id):
            simulator.seed(seed)
            simulator.reset()
            return self._observation(simulator.set_init_state(self._suite[2][task.number][init_state]))

    def step(self, action: np.ndarray) -> Observation:
        simulator = self._simulator
        with self._told("a step"):
            return self._observation(simulator.step(np.asarray(action, dtype=np.float64))[0])

    def render(self) -> dict[str, np.ndarray]:
        sim = self._simulator.sim
        with self._told("a picture"):
            return {name: upright(sim.render(camera_name=camera, width=self.size, height=self.size)) for name, camera in CAMERAS.items()}

    def success(self) -> bool:
        return bool(self._simulator.check_success())

    def solid(self, name: str) -> Solid:
        world = self._simulator.env
        model, data = world.sim.model, world.sim.data
        if name in world.object_sites_dict:
            number = model.site_name2id(name)
            half = np.asarray(world.object_sites_dict[name].size, dtype=np.float64)
            return solid(box_corners(data.site_xpos[number], data.site_xmat[number].reshape(3, 3), half))
        things = {**world.objects_dict, **world.fixtures_dict}
        if name not in things:
            raise UnknownNameError("thing of this task", name, {*things, *world.object_sites_dict}, where=self.suite)
        numbers = [model.geom_name2id(geom) for geom in things[name].contact_geoms]
        return solid(np.concatenate([box_corners(data.geom_xpos[i], data.geom_xmat[i].reshape(3, 3), model.geom_size[i]) for i in numbers]))

    def versions(self) -> Mapping[str, str]:
        return installed.versions()

    def close(self) -> None:
        if self._started is not None:
            atexit.unregister(self.close)
            started, self._started = self._started, None
            started[1].close()

    def _start(self, task: Task) -> None:
        file = str(self._suite[1][task.number])
        # A soft reset would save 4 s, but keeps where the gripper was told to go: an episode would depend on the one before it.
        simulator = self._package.simulator(bddl_file_name=file, use_camera_obs=False, camera_names=[], ignore_done=True, hard_reset=True)
        self._started = task.number, simulator
        atexit.register(self.close)  # EGL complains aloud about a context that is still open when Python ends

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What the simulator raises in its own classes becomes a DamagedError, so that a rollout can tell it and go on."""
        try:
            yield
        except self._package.failures as error:
            raise DamagedError("the simulator gave up", where=f"{self.suite}, {what}", got=f"{type(error).__name__}: {error}") from error

    @property
    def _simulator(self) -> Any:
        if self._started is None:
            raise UsageError("the simulator is not running", where=self.suite, next="call reset(task, seed=…, init_state=…) first")
        return self._started[1]

    def _observation(self, raw: Mapping[str, np.ndarray]) -> Observation:
        parts = raw["robot0_eef_pos"], axis_angle(raw["robot0_eef_quat"]), raw["robot0_gripper_qpos"]
        return Observation(np.concatenate(parts).astype(np.float32))


def _refuse_tensorflow() -> None:
    """Raises MissingError where TensorFlow is imported: its LLVM and that of the software renderer end the process without a word."""
    if "tensorflow" in sys.modules:
        next = "record array_record, or with a recorder that needs no TensorFlow"
        raise MissingError("MuJoCo cannot draw in a process that has TensorFlow imported: both crash", expected="a process without it", next=next)
