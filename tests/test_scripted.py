"""The scripted policy in a world without physics: it takes, lifts, carries and lets go, and fails where a robot would."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from harness.environments import Environment, Goal, Observation, Solid, Task
from harness.errors import UsageError
from harness.policies._scripted_moves import METRES, RADIANS, WIDEST, grip, motion, opening, pointing_down, rotation, turning
from harness.policies.scripted import Scripted
from harness.rollout import rollout
from harness.types import Episode

TASK = Task("table/00", 0, "pick", "put the can in the box", "table", "table/pick.bddl", (Goal("in", "can", "box"),), 4)
DOWN = np.diag([1.0, -1.0, -1.0])  # the hand over the table: its fingers point down and open along y


class Table(Environment):
    """A hand that follows its actions exactly, and a thing that goes with it while the closed fingers are about it; let go, it falls.

    The first `slips` grips of an episode miss it.
    """

    def __init__(self, *, width: float = 0.05, yaw: float = 0.4, slips: int = 0, goals: tuple[Goal, ...] = TASK.goals) -> None:
        self.width, self.yaw, self.slips, self.goals = width, yaw, slips, goals
        self.highest, self.errors = 0.0, []

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (Task(**{**vars(TASK), "goals": self.goals}),)

    def reset(self, task: Task, *, seed: int, init_state: int) -> Observation:
        self.hand, self.turn, self.fingers = np.array([-0.1, 0.0, 0.3]), DOWN, 0.02
        self.thing, self.held = np.array([0.05, -0.1 - 0.02 * init_state, 0.04]), None
        self.slipping, self.missed = self.slips, False
        return self._observation()

    def step(self, action: np.ndarray) -> Observation:
        assert action.shape == (7,) and action.dtype == np.float32 and np.abs(action).max() <= 1.0
        self.hand = self.hand + METRES * action[:3]
        self.turn = rotation(RADIANS * action[3:6]) @ self.turn
        self.fingers = float(np.clip(self.fingers - 0.008 * action[6], 0.0, 0.04))
        if action[6] < 0:
            self.held, self.missed = None, False
        elif self.held is None and not self.missed and self.fingers <= 0.01 and self._reached():
            self.missed = self.slipping > 0
            self.slipping -= 1
            self.held = None if self.missed else self.thing - self.hand
        if self.held is not None:
            self.thing = self.hand + self.held
        else:
            self.thing[2] = max(0.04, self.thing[2] - 0.05)
        self.highest = max(self.highest, self.thing[2])
        return self._observation()

    def _reached(self) -> bool:
        """Whether a side of the thing lies between the fingers, which open across it."""
        near = np.linalg.norm((self.thing - self.hand)[:2]) < max(0.01, self.width / 2) and abs(self.thing[2] - self.hand[2]) < 0.03
        across = abs(np.cos(opening(self.turn) - self.yaw))
        return bool(near and (across > 0.99 or self.width > WIDEST))

    def render(self) -> dict[str, np.ndarray]:
        return {"primary": np.zeros((2, 2, 3), np.uint8)}

    def success(self) -> bool:
        return bool(np.abs(self.thing - self.solid("box").centre).max() < 0.06 and self.held is None)

    def solid(self, name: str) -> Solid:
        if name == "box":
            return Solid(np.array([0.0, 0.26, 0.06]), 0.12, 0.12, 0.0, 0.12, 0.0)
        if name == "shelf":
            return Solid(np.array([0.0, -0.3, 0.0]), 0.12, 0.12, 0.0, 0.0, 0.0)
        bottom, top = self.thing[2] - 0.04, self.thing[2] + 0.04
        return Solid(self.thing.copy(), self.width, 0.1, bottom, top, self.yaw)

    def versions(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass

    def _observation(self) -> Observation:
        return Observation(np.concatenate([self.hand, Rotation.from_matrix(self.turn).as_rotvec(), [self.fingers, -self.fingers]]).astype(np.float32))


def run(world: Table, policy: Scripted, *, episodes: int = 1) -> list[Episode]:
    found = list(rollout(world, policy, episodes=episodes, stride=50, max_steps=400))
    assert all(isinstance(record, Episode) for record in found), found
    return found


@pytest.mark.parametrize(("width", "yaw"), [(0.05, 0.0), (0.05, 0.4), (0.05, 1.5), (0.02, 2.0), (0.05, 3.0), (0.11, 0.7)])
def test_it_puts_the_thing_into_the_box_however_it_lies(width: float, yaw: float) -> None:
    episodes = run(Table(width=width, yaw=yaw), Scripted(), episodes=4)
    assert [episode.success for episode in episodes] == [True] * 4


def test_the_thing_is_carried_over_the_rim_and_not_through_it() -> None:
    world = Table()
    run(world, Scripted())
    assert world.highest - 0.04 > world.solid("box").top


@pytest.mark.parametrize(("slips", "attempts", "success"), [(0, 1, True), (1, 1, False), (1, 2, True), (2, 2, False), (2, 3, True)])
def test_a_grip_that_fails_is_tried_again_as_often_as_asked(slips: int, attempts: int, success: bool) -> None:
    (episode,) = run(Table(slips=slips), Scripted(attempts=attempts))
    assert episode.success is success


def test_a_hand_that_missed_goes_the_same_way_as_one_that_holds() -> None:
    paths = []
    for slips in (0, 1):
        world, policy = Table(slips=slips), Scripted()
        observation = world.reset(world.tasks[0], seed=0, init_state=0)
        policy.reset(world.tasks[0], world, seed=0)
        while policy.phase != "retreat":
            observation = world.step(policy.act(observation))
        paths.append(world.hand)
    assert np.allclose(paths[0], paths[1], atol=0.02)


def test_the_moves_come_in_their_order() -> None:
    world, policy = Table(), Scripted()
    observation = world.reset(world.tasks[0], seed=0, init_state=0)
    policy.reset(world.tasks[0], world, seed=0)
    seen: list[str] = []
    for _ in range(300):
        seen += [policy.phase] if seen[-1:] != [policy.phase] else []
        observation = world.step(policy.act(observation))
    assert seen == ["settle", "above", "descend", "close", "lift", "carry", "lower", "release", "retreat", "rest"]


def test_every_goal_that_names_a_place_is_attempted_in_turn() -> None:
    world = Table(goals=(Goal("in", "can", "box"), Goal("open", "drawer"), Goal("in", "can", "shelf")))
    policy, places = Scripted(), []
    observation = world.reset(world.tasks[0], seed=0, init_state=0)
    policy.reset(world.tasks[0], world, seed=0)
    for _ in range(500):
        observation = world.step(policy.act(observation))
        if policy.phase == "rest":
            break
        if policy.phase == "release":
            places.append(round(float(world.thing[1]), 1))
    assert list(dict.fromkeys(places)) == [0.3, -0.3] and policy.phase == "rest"


def test_the_hand_waits_while_things_settle_and_while_the_fingers_close() -> None:
    world, policy = Table(), Scripted()
    observation = world.reset(world.tasks[0], seed=0, init_state=0)
    policy.reset(world.tasks[0], world, seed=0)
    moved: dict[str, list[float]] = {}
    for _ in range(120):
        phase = policy.phase
        action = policy.act(observation)
        moved.setdefault(phase, []).append(float(np.abs(action[:3]).max()))
        assert action[6] == (1.0 if phase in ("close", "lift", "carry", "lower") else -1.0), phase
        observation = world.step(action)
    assert len(moved["settle"]) == 10 and max(moved["settle"]) < 1e-3
    assert len(moved["close"]) == 12 and max(moved["close"]) < 0.1
    assert max(moved["carry"]) > 0.5


def test_a_second_episode_repeats_the_first() -> None:
    world, policy = Table(), Scripted()
    first, second = ([sample.action.tolist() for sample in run(world, policy)[0].steps] for _ in range(2))
    assert first == second


def test_a_task_that_is_no_pick_and_place_is_refused_by_name() -> None:
    world = Table(goals=(Goal("turnon", "stove"),))
    world.reset(world.tasks[0], seed=0, init_state=0)
    with pytest.raises(UsageError, match=r"names no place[\s\S]*table/00[\s\S]*turnon[\s\S]*--policy random"):
        Scripted().reset(world.tasks[0], world, seed=0)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"gain": 0.0}, {"gain": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a grip and a pace"):
        Scripted(**options)


@pytest.mark.parametrize(
    ("width", "hand_y", "expected"),
    [
        (0.05, 0.0, [0.1, 0.2, 0.104]),  # its middle, or as deep as the palm allows
        (0.10, 0.0, [0.1, 0.158, 0.12]),  # too wide: over the wall on the hand's side
        (0.10, 0.4, [0.1, 0.242, 0.12]),
    ],
)
def test_the_grip_is_in_the_middle_of_what_fits_and_over_the_rim_of_what_does_not(width: float, hand_y: float, expected: list[float]) -> None:
    found = grip(Solid(np.array([0.1, 0.2, 0.07]), width, 0.1, 0.0, 0.14, 0.4), np.array([0.1, hand_y, 0.3]), DOWN)
    assert np.allclose(found.point, expected)
    assert np.isclose(abs(np.cos(found.yaw - (0.4 if width < WIDEST else np.pi / 2))), 1.0)


@pytest.mark.parametrize("turn", [[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, -1.2, 0.4], [1.0, 1.5, -2.0]])
def test_turning_undoes_rotation(turn: list[float]) -> None:
    matrix = rotation(np.array(turn))
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-12) and np.isclose(np.linalg.det(matrix), 1.0)
    assert np.allclose(matrix, Rotation.from_rotvec(turn).as_matrix())
    assert np.allclose(turning(matrix), turn, atol=1e-9)


def test_a_quarter_turn_about_z_brings_x_to_y() -> None:
    assert np.allclose(rotation(np.array([0.0, 0.0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0])


@pytest.mark.parametrize("yaw", [0.0, 0.4, 1.5, 2.0, 3.1])
def test_the_hand_faces_a_yaw_from_the_nearer_side(yaw: float) -> None:
    facing = pointing_down(yaw, DOWN)
    assert np.allclose(facing[:, 2], [0, 0, -1]) and np.isclose(np.linalg.det(facing), 1.0)
    assert np.isclose(abs(np.cos(opening(facing) - yaw)), 1.0)
    assert np.linalg.norm(turning(facing @ DOWN.T)) <= np.pi / 2 + 1e-9


def test_a_motion_is_cut_at_what_one_step_can_do_and_shrinks_near_its_target() -> None:
    far = motion(np.zeros(3), DOWN, np.array([1.0, 0.0, -1.0]), DOWN, -1.0, gain=0.5)
    near = motion(np.zeros(3), DOWN, np.array([0.01, 0.0, 0.0]), rotation(np.array([0.0, 0.0, 0.1])) @ DOWN, 1.0, gain=0.5)
    assert far.tolist() == [1, 0, -1, 0, 0, 0, -1]
    assert np.allclose(near, [0.1, 0, 0, 0, 0, 0.1, 1.0], atol=1e-6)
