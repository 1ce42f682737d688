"""Rollouts with latents: every kept step by its own number, large arrays unread until wanted, and pickles that never run."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import readers
from harness.datasets._latents_pickle import LAZY_ABOVE, Latent, read_pickle
from harness.datasets.latents import Latents
from harness.errors import DamagedError, HarnessError, MissingError
from harness.types import Broken, Sample

LARGE, SMALL = (3, 1, 40, 256), (3, 1, 5)  # 120 KiB, 60 bytes


def states(seed: float) -> dict[str, Any]:
    return {
        "hidden_states": np.full(LARGE, seed, np.float32) + np.arange(256, dtype=np.float32),
        "pre_attn_norm_scales": np.full(SMALL, seed, np.float32),
        "mlp_activation": None,
    }


def step(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "timestep": number,
        "action": [0.5] * 6 + [float(number)],
        "action_expert_state_time1.0": states(number),
        "action_expert_state_time0.9": states(number + 0.5),
        "vlm_layer_output": states(-number),
        "observation": {
            "agentview_image": np.full((128, 128, 3), number, np.uint8),
            "wrist_image": np.full((4, 5, 3), number + 1, np.uint8),
            "robot_state": [0.1, 0.2, float(number)],
        },
        **changed,
    }


def task(number: int, episodes: dict[str, Any] | None = None) -> dict[str, Any]:
    if episodes is None:
        rollouts = {"episode_0": (10, 20, 35, 100), "episode_1": (10,)}
        episodes = {name: {"rollout_steps": {f"step_{t}": step(t) for t in steps}, "metadata": {"success": False}} for name, steps in rollouts.items()}
    return {"task_name": "open_it", "task_id": number, "task_description": "open it", "episodes": episodes}


def written(folder: Path, number: int = 0, content: object = None, protocol: int | None = None) -> Path:
    path = folder / f"task_{number}_open_it.pkl"
    path.write_bytes(pickle.dumps(task(number) if content is None else content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_step_has_the_number_of_its_key_and_its_own_latents(tmp_path: Path, protocol: int) -> None:
    samples = list(Latents(written(tmp_path, protocol=protocol)))
    assert [(sample.id, sample.step) for sample in samples] == [
        ("task_0_open_it/episode_0/0010", 10),
        ("task_0_open_it/episode_0/0020", 20),
        ("task_0_open_it/episode_0/0035", 35),
        ("task_0_open_it/episode_0/0100", 100),
        ("task_0_open_it/episode_1/0010", 10),
    ]
    for sample in samples:
        assert isinstance(sample, Sample)
        t = sample.step
        assert sample.instruction == "open it" and sample.group == sample.episode == sample.id[:-5]
        assert sample.state.tolist() == pytest.approx([0.1, 0.2, t]) and sample.action.tolist() == [0.5] * 6 + [t]
        assert (sample.images["primary"] == t).all() and sample.images["primary"].shape == (128, 128, 3)
        assert (sample.images["wrist"] == t + 1).all() and sample.images["wrist"].shape == (4, 5, 3)
        latents = sample.fields["latents"]
        parts = ("action_expert_state_time1.0", "action_expert_state_time0.9", "vlm_layer_output")
        assert set(latents) == {f"{part}.{name}" for part in parts for name in ("hidden_states", "pre_attn_norm_scales")}
        for part, seed in (("action_expert_state_time1.0", t), ("action_expert_state_time0.9", t + 0.5), ("vlm_layer_output", -t)):
            large, small = latents[f"{part}.hidden_states"], latents[f"{part}.pre_attn_norm_scales"]
            assert (large.shape, large.dtype, small.shape) == (LARGE, np.float32, SMALL) and (small == seed).all()
            assert np.array_equal(large() if isinstance(large, Latent) else large, states(seed)["hidden_states"])
        assert "success" not in sample.fields and sample.fields["task_name"] == "open_it"


@pytest.mark.parametrize("protocol", [4, 5])
def test_large_arrays_stay_in_the_file_until_they_are_wanted(tmp_path: Path, protocol: int) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    path = tmp_path / "task_0_a.pkl"
    steps = {"step_10": {"vlm_layer_output": {"hidden_states": np.ones(4_000_000, np.float32)}}}
    path.write_bytes(pickle.dumps(task(0, {"episode_0": {"rollout_steps": steps}}), protocol=protocol))
    before = bytes_read()
    sample = next(iter(Latents(path)))
    latent = sample.fields["latents"]["vlm_layer_output.hidden_states"]
    assert isinstance(latent, Latent) and bytes_read() - before < 2_000_000
    assert pickle.loads(pickle.dumps(latent))().sum() == 4_000_000 and bytes_read() - before > 16_000_000


def test_episodes_and_tasks_are_ordered_by_number_and_ranges_agree(tmp_path: Path) -> None:
    for number in (10, 9):
        written(tmp_path, number, task(number, {f"episode_{n}": {"rollout_steps": {f"step_{t}": step(t) for t in (100, 20)}} for n in (10, 2)}))
    reader = pickle.loads(pickle.dumps(Latents(tmp_path)))
    ids = [sample.id for sample in reader]
    assert len(reader) == 4 and ids == [f"task_{t}_open_it/episode_{e}/{s:04d}" for t in (9, 10) for e in (2, 10) for s in (20, 100)]
    assert [sample.id for start in range(4) for sample in reader.read(start, start + 1)] == ids


@pytest.mark.parametrize(
    "array",
    [np.arange(60_000.0).reshape(200, 300).T, np.arange(6).reshape(2, 3).T, np.zeros((0, 4)), np.array(3.5), np.arange(40_000, dtype=">i4")],
    ids=["large, by columns", "small, by columns", "empty", "a number", "other byte order"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_any_order_and_size_are_themselves(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"x": array, "y": [np.float32(2.5), {1, 2}, (None, b"z" * 50_000)]}, protocol=protocol))
    content = read_pickle(path)
    found = content["x"]() if isinstance(content["x"], Latent) else content["x"]
    assert np.array_equal(found, array) and (found.dtype, found.shape) == (array.dtype, array.shape)
    assert content["y"][:2] == [np.float32(2.5), {1, 2}]


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call[0], tuple(self.call[1:])


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Evil(os.system, "touch touched"), "posix.system"),
        (Evil(eval, "open('touched', 'w')"), "builtins.eval"),
        (Evil(getattr, {}, "clear"), "builtins.getattr"),
        (Evil(np.load, "touched"), "numpy.load"),
        (Path("a"), r"pathlib(\._local)?.PosixPath"),
        (random.Random(0), "random.Random"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, content=task(0, {"episode_0": {"rollout_steps": {"step_10": step(10, extra=content)}}}))
    with pytest.raises(DamagedError, match=rf"nothing of it was run(.|\n)*task_0_open_it\.pkl(.|\n)*{name}(.|\n)*numpy arrays"):
        read_pickle(path)
    broken = list(Latents(path))
    assert [record.id for record in broken] == ["task_0_open_it"] and isinstance(broken[0], Broken) and not Path("touched").exists()


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="no numeric type: 'O8'"):
        read_pickle(written(tmp_path, content={"x": np.array([1, None], dtype=object)}))


def test_every_cut_and_every_flipped_byte_gives_a_clear_error_or_a_value(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    whole = pickle.dumps({"a": [np.arange(3.0), "text", {1.5}, np.float32(2)], "b": np.zeros(LAZY_ABOVE, np.uint16)})
    numbers = random.Random(0)
    values = sorted(set(range(256)) - {ord("r")})  # a place in the unpickler's memory, which would take as much as it says
    places = [place for place in range(len(whole)) if place < 350 or place > len(whole) - 50]
    damaged = [whole[:place] for place in places] + [whole[:place] + bytes([numbers.choice(values)]) + whole[place + 1 :] for place in places]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_pickle(path)
        except HarnessError as error:
            assert "a.pkl" in str(error)
            refused += 1
    assert refused > len(places)


def test_a_latent_of_a_file_that_was_cut_since_says_so(tmp_path: Path) -> None:
    path = written(tmp_path)
    latent = next(iter(Latents(path))).fields["latents"]["vlm_layer_output.hidden_states"]
    path.write_bytes(path.read_bytes()[: latent.offset + 1000])
    with pytest.raises(DamagedError, match=r"cut short(.|\n)*got +250 values"):
        latent()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"episodes": {}}, "no rollout"),
        ({"task_description": "a", "episodes": {}}, "no task_description or no episodes"),
        ({"task_description": 3, "episodes": {"episode_0": {}}}, "no task_description"),
        ({"task_description": "a", "episodes": {"episode_0": {}}}, "rollout_steps"),
        ({"task_description": "a", "episodes": {"episode_0": {"rollout_steps": {}}}}, "the episode has no steps"),
        ([1, 2], "no rollout"),
    ],
)
def test_another_layout_is_named_and_reading_goes_on(tmp_path: Path, content: object, reason: str) -> None:
    written(tmp_path, 1, content)
    written(tmp_path, 2)
    found = list(Latents(tmp_path))
    assert isinstance(found[0], Broken) and reason in found[0].reason and found[0].id.startswith("task_1_open_it")
    assert len(found) == 6 and all(isinstance(record, Sample) for record in found[1:])


def test_a_truncated_file_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-100_000])
    written(tmp_path, 2)
    found = list(Latents(tmp_path))
    assert [record.id for record in found if isinstance(record, Broken)] == ["task_1_open_it"] and len(found) == 6


def test_a_step_of_another_layout_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    steps = {
        "step_10": step(10, timestep=11),
        "step_x": step(12),
        "step_20": {"observation": {"agentview_image": np.zeros((4, 4), np.uint8)}},
        "step_30": [1],
        "step_40": step(40),
    }
    found = list(Latents(written(tmp_path, content=task(0, {"episode_0": {"rollout_steps": steps}}))))
    reasons = {record.id.rpartition("/")[2]: record.reason for record in found if isinstance(record, Broken)}
    assert set(reasons) == {"step_10", "step_x", "step_20", "step_30"} and [record.step for record in found if isinstance(record, Sample)] == [40]
    assert "timestep 11" in reasons["step_10"] and "no step_NUMBER" in reasons["step_x"] and "uint8 (4, 4)" in reasons["step_20"]


def test_the_keys_are_those_of_a_step(tmp_path: Path) -> None:
    keys = Latents(written(tmp_path)).keys()
    assert (keys["vlm_layer_output.hidden_states"], keys["action"]) == (f"float32 {LARGE}", "list")
    assert keys["observation.agentview_image"] == "uint8 (128, 128, 3)"


def test_identity_follows_the_files(tmp_path: Path) -> None:
    before = Latents(written(tmp_path)).identity()
    assert Latents(tmp_path).identity() == before
    written(tmp_path, content=task(1))
    assert Latents(tmp_path).identity() != before


def test_the_format_is_recognised_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").touch()
    assert not Latents.recognises(tmp_path) and not Latents.recognises(tmp_path / "model.pkl") and not Latents.recognises("task_0_a.pkl")
    assert isinstance(readers.stream(str(written(tmp_path))).reader, Latents) and Latents.recognises(tmp_path)
    with pytest.raises(MissingError, match="no latents here"):
        Latents(tmp_path / "none")
