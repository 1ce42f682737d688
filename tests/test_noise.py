"""The noise floor: what each axis changes, what it must see, why it is absent, and that it is kept."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import cli, extract, faults, noise, readers, subjects
from harness.adapters import Adapter
from harness.errors import UnknownNameError, UsageError
from harness.memo import Memo
from harness.noise import AXES, EQUAL, MEASURES, Change, Floor, noise_floor, relative_change
from harness.types import Point, Runtime, Sample

ROOT = Path(__file__).resolve().parent.parent
FINAL, MIDDLE = Point("lm", "final_norm"), Point("lm", "output", 1)
X = np.array([[0.0, 0.0], [2.0, 4.0], [4.0, 8.0], [6.0, 12.0]])  # variances 5 and 20, spread sqrt(12.5)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return subjects.load(subjects.resolve("toy_lm:mock"), Runtime())


@pytest.fixture(scope="module")
def samples() -> tuple[Sample, ...]:
    return readers.read("libero_instructions").samples[:6]


@pytest.fixture
def measure(adapter: Adapter, samples: tuple[Sample, ...]) -> Callable[..., Floor]:
    def measured(*axes: str, points: Sequence[Point] = (FINAL,), of: Sequence[Sample] = samples, **options: object) -> Floor:
        given = {"adapter": lambda: adapter, **options}
        return noise_floor(adapter.subject, adapter.runtime, of, points, axes=axes or AXES, **given)  # type: ignore[arg-type]

    return measured


@pytest.mark.parametrize(
    ("moved", "value", "worst"),
    [
        (np.zeros((4, 2)), 0.0, 0.0),
        (np.full((4, 2), 1.0), 12.5**-0.5, 12.5**-0.5),
        (np.array([[0, 0], [0, 0], [0, 0], [2, 0]]), 0.5**0.5 / 12.5**0.5, 2**0.5 / 12.5**0.5),
        (np.array([[np.nan, 0], [0, 0], [0, 0], [0, 0]]), np.inf, np.inf),
        (np.array([[0, np.inf], [0, 0], [0, 0], [0, 0]]), np.inf, np.inf),
    ],
    ids=["equal", "everywhere by one", "one entry", "NaN", "infinity"],
)
def test_a_change_is_the_root_mean_square_over_the_spread(moved: np.ndarray, value: float, worst: float) -> None:
    found = relative_change(X + moved, X)
    assert found == (pytest.approx(value), pytest.approx(worst))


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_a_change_does_not_depend_on_the_unit_or_the_offset_of_the_features(factor: float) -> None:
    other = X + np.random.default_rng(0).standard_normal(X.shape)
    assert relative_change(factor * other + 5, factor * X + 5) == pytest.approx(relative_change(other, X))


def test_rows_without_spread_are_measured_in_their_own_size() -> None:
    same = np.full((3, 2), 4, np.float32)
    assert relative_change(same, same) == (0.0, 0.0)
    assert relative_change(same + 1, same) == (0.25, 0.25)
    assert relative_change(same + 1, same + np.float32(1e-6) * X[:3, :2]) == (pytest.approx(0.25, abs=1e-5), pytest.approx(0.25, abs=1e-5))
    assert relative_change(same, 0 * same) == (np.inf, np.inf)


def test_rows_of_other_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="different shapes"):
        relative_change(X[:3], X)


def test_a_floor_is_the_largest_axis_between_equal_runs_and_dtype_stands_apart() -> None:
    changes = {"repeat": Change(0.0, 0.0), "batch": Change(3e-6, 9e-6), "kernel": Change(2e-6, 2e-6), "dtype": Change(0.02, 0.03)}
    floor = Floor("toy_lm:mock", 6, {FINAL: changes, MIDDLE: {"repeat": Change(0.0, 0.0)}}, {})
    assert floor.of(FINAL) == floor.of("lm.final_norm") == 3e-6
    assert floor.dtype(FINAL) == (0.02, 0.03)
    assert floor.of("lm.01.output") == np.finfo(np.float32).eps  # bitwise equal runs: no drift is told in multiples of nothing
    assert floor.dtype(MIDDLE) is None
    with pytest.raises(UnknownNameError, match=r"lm.02.output(.|\n)*lm.01.output"):
        floor.of("lm.02.output")


def test_a_mock_subject_has_a_floor_of_float_rounding_on_every_axis(measure: Callable[..., Floor]) -> None:
    found = measure(points=(FINAL, MIDDLE))
    assert found.absent == {}
    assert found.samples == 6
    for point in (FINAL, MIDDLE):
        changes = found.changes[point]
        assert tuple(changes) == AXES
        assert changes["repeat"] == (0.0, 0.0)
        assert all(changes[axis].value <= changes[axis].worst < 1e-5 for axis in EQUAL)
        assert 1e-3 < found.dtype(point).value < 0.3
        assert found.of(point) < 1e-5


def test_a_floor_of_the_dtype_axis_alone_is_the_rounding_of_a_float(measure: Callable[..., Floor]) -> None:
    found = measure("dtype")
    assert found.dtype(FINAL).value > 1e-3
    assert found.of(FINAL) == np.finfo(np.float32).eps


def test_the_axes_change_what_they_say(measure: Callable[..., Floor], samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[int, int, str, str, int]]] = {}
    threads = torch.get_num_threads()
    for axis in AXES:

        def watched(adapter: Adapter, taken: Sequence[Sample], *args: object, axis: str = axis, **options: int) -> dict[Point, np.ndarray]:
            longest = max(len(sample.instruction.split()) for sample in taken)
            runtime = adapter.runtime
            seen.setdefault(axis, []).append((options["batch_size"], longest, runtime.attention, runtime.dtype, torch.get_num_threads()))
            return extract.pooled(adapter, taken, *args, **options)

        monkeypatch.setattr(noise, "pooled", watched)
        measure(axis)
    words = max(len(sample.instruction.split()) for sample in samples)
    plain = (16, words, "eager", "float32", threads)
    assert {runs[0] for runs in seen.values()} == {plain}
    assert {axis: runs[1] for axis, runs in seen.items()} == {
        "repeat": plain,
        "batch": (1, words, "eager", "float32", threads),
        "padding": (7, 4 * words, "eager", "float32", threads),
        "kernel": (16, words, "sdpa", "float32", threads),
        "threads": (16, words, "eager", "float32", 1 if threads > 1 else 2),
        "dtype": (16, words, "eager", "bfloat16", threads),
    }
    assert torch.get_num_threads() == threads


def test_the_number_of_threads_is_restored_when_a_measurement_fails(measure: Callable[..., Floor], monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = torch.get_num_threads(), []

    def failing(*args: object, **options: object) -> dict[Point, np.ndarray]:
        calls.append(torch.get_num_threads())
        if len(calls) > 1:
            raise UsageError("the power is out")
        return {FINAL: X}

    monkeypatch.setattr(noise, "pooled", failing)
    with pytest.raises(UsageError, match="power"):
        measure("threads")
    assert calls[1] != before
    assert torch.get_num_threads() == before


def test_padding_that_enters_the_mean_is_seen_by_the_padding_axis(measure: Callable[..., Floor]) -> None:
    assert measure("padding").of(FINAL) < 1e-5
    with faults.injected("padding_in_mean"):
        assert measure("padding").of(FINAL) > 1e-2


def test_rows_that_depend_on_their_batch_are_seen_by_the_batch_axis(measure: Callable[..., Floor], monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(adapter: Adapter, taken: Sequence[Sample], points: object, *, batch_size: int, **options: object) -> dict[Point, np.ndarray]:
        return {FINAL: X * (1 + 0.1 / batch_size)}

    monkeypatch.setattr(noise, "pooled", uneven)
    found = measure("repeat", "batch")
    assert found.changes[FINAL]["repeat"].value == 0
    assert found.of(FINAL) > 0.05


@pytest.mark.parametrize(
    ("subject", "axis", "reason"),
    [
        ("proprio:mock", "padding", "no input of this model has a length of its own"),
        ("openpi_tiny:checkpoint", "padding", "every prompt is padded to 8 tokens"),
        ("openpi_tiny:checkpoint", "kernel", "one attention kernel only (eager)"),
        ("openpi_tiny:checkpoint", "threads", "does not compute in torch"),
    ],
)
def test_an_axis_that_makes_no_sense_is_absent_with_the_reason(subject: str, axis: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "pooled", lambda *args, **options: {FINAL: X})  # compiling a JAX network for this would take long
    adapter = loaded(subject)
    cameras = dict.fromkeys(("primary", "wrist"), np.zeros((64, 64, 3), np.uint8))
    shown = [Sample(name, "pick", cameras, np.zeros(adapter.state_width or 7, np.float32)) for name in "ab"]
    found = noise_floor(adapter.subject, adapter.runtime, shown, [FINAL], axes=["repeat", axis], adapter=lambda: adapter)
    assert list(found.absent) == [axis]
    assert reason in found.absent[axis]
    assert axis not in found.changes[FINAL]


@cache
def loaded(subject: str) -> Adapter:
    return subjects.load(subjects.resolve(subject), Runtime())


def test_weights_in_bfloat16_have_no_dtype_axis_and_an_accelerator_none_of_threads(adapter: Adapter, samples: tuple[Sample, ...]) -> None:
    setting = noise._Setting(copy(adapter), samples, (FINAL,), "mean", 16)
    setting.adapter.runtime = Runtime(device="cuda:1", dtype="bfloat16")
    assert MEASURES["dtype"](setting) == "its weights are bfloat16 already"
    assert MEASURES["threads"](setting) == "it runs on cuda:1"


def test_a_runtime_that_the_family_refuses_is_an_absent_axis(measure: Callable[..., Floor], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> Adapter:
        raise UsageError("this family runs in float32 only")

    monkeypatch.setattr(noise.subjects, "load", refuse)
    assert measure("dtype", "repeat").absent == {"dtype": "this family runs in float32 only"}


@pytest.mark.parametrize(
    ("axes", "count", "error", "said"),
    [
        (["bach"], 6, UnknownNameError, "axis of noise named 'bach'; the nearest is 'batch'"),
        (["repeat"], 1, UsageError, "1 samples"),
        (["repeat"], 0, UsageError, "at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    measure: Callable[..., Floor], samples: tuple[Sample, ...], axes: list[str], count: int, error: type[UsageError], said: str
) -> None:
    with pytest.raises(error, match=said):
        measure(*axes, of=samples[:count])


def no_adapter() -> Adapter:
    raise AssertionError("it was measured again")


def test_a_floor_is_kept_and_measured_again_only_when_something_changed(
    measure: Callable[..., Floor], samples: tuple[Sample, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = Memo(tmp_path)
    first = measure("repeat", "batch", "padding", memo=memo)
    kept = measure("repeat", "batch", "padding", memo=memo, adapter=no_adapter)
    assert replace(kept, detail="") == first
    assert kept.detail.startswith("(kept from 2")
    others: list[dict[str, object]] = [
        {"again": True},
        {"points": (MIDDLE,)},
        {"pooling": "last"},
        {"batch_size": 4},
        {"fault": "some-mistake"},
        {"of": [*samples[:-1], replace(samples[-1], instruction="open the drawer")]},
        {"of": [*samples[:-1], replace(samples[-1], state=np.ones(3, np.float32))]},
        {"of": [*samples[:-1], replace(samples[-1], images={"primary": np.zeros((2, 2, 3), np.uint8)})]},
    ]
    for changed in others:
        with pytest.raises(AssertionError, match="again"):
            measure("repeat", "batch", "padding", memo=memo, adapter=no_adapter, **changed)
    with pytest.raises(AssertionError, match="again"):
        measure("repeat", "batch", memo=memo, adapter=no_adapter)
    for change in ({"node": lambda: "elsewhere"}, {"processor": lambda: "another"}):
        with monkeypatch.context() as patched, pytest.raises(AssertionError, match="again"):
            for name, value in change.items():
                patched.setattr(noise.platform, name, value)
            measure("repeat", "batch", "padding", memo=memo, adapter=no_adapter)


def test_an_absent_axis_is_kept_with_its_reason(
    measure: Callable[..., Floor], adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(adapter), "kernels", ("eager",))
    first = measure("repeat", "kernel", memo=Memo(tmp_path))
    assert measure("repeat", "kernel", memo=Memo(tmp_path), adapter=no_adapter).absent == first.absent != {}


# The command


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("HARNESS")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "noise", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return called


def test_the_command_prints_a_table_by_point_and_axis_and_keeps_it(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("toy_lm:mock")
    heading, row, below = out.splitlines()
    assert code == 0
    assert heading.split() == ["point", "floor", *AXES]
    assert row.split()[0] == "lm.final_norm"
    assert "8 samples (made-up samples); the floor is the largest" in below
    assert "(kept from 2" in call("toy_lm:mock")[1]
    assert "(kept from 2" not in call("toy_lm:mock", "--again")[1]


def test_the_command_gives_the_same_figures_as_json_for_the_asked_points_of_a_dataset(call: Callable[..., tuple[int, str, str]]) -> None:
    asked = ("--dataset", "libero_instructions", "--points", "lm.embedding", "lm.-1.output", "--axes", "repeat", "batch", "--samples", 4, "--json")
    code, out, _ = call("toy_lm:mock", *asked)
    found = json.loads(out)
    dataset = readers.read("libero_instructions").samples[:4]
    floor = noise_floor(subjects.resolve("toy_lm:mock"), Runtime(), dataset, [Point("lm", "embedding"), Point("lm", "output", 3)], axes=["repeat", "batch"])
    assert code == 0
    assert found["points"] == {
        str(point): {"floor": floor.of(point), **{axis: change._asdict() for axis, change in changes.items()}} for point, changes in floor.changes.items()
    }
    assert (found["samples"], found["dataset"], found["absent"], found["left_out"]) == (4, "libero_instructions", {}, [])


def test_the_command_makes_samples_that_fit_the_model_and_tells_what_is_absent(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("pi0:mock", "--axes", "repeat", "padding", "--points", "expert.t02.final_norm", "--samples", 2)
    assert (code, err) == (0, "")
    assert "padding is absent: every prompt is padded to 48 tokens" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy_ml:mock"], "toy_lm"),
        (["toy_lm:mock", "--axes", "bach"], "the nearest is 'batch'"),
        (["toy_lm:mock", "--points", "lm.09.output"], "the nearest is 'lm.03.output'"),
        (["toy_lm:mock", "--dtype", "float64"], "no dtype named 'float64'"),
        (["toy_lm:mock", "--dataset", "libero_instruction"], "the nearest is 'libero_instructions'"),
    ],
)
def test_the_command_refuses_in_words(call: Callable[..., tuple[int, str, str]], arguments: list[str], said: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
