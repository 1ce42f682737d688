"""Accepted statistics: what counts as moved, the table that says so, and what would explain it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from harness import readers, subjects
from harness.adapters import Adapter
from harness.extract import pooled
from harness.metrics.summary import summary
from harness.sketch import sketch
from harness.snapshot import KINDS, Moved, StatisticsExtension, explanation, kind_of, moved_fields, noise_floors, told_in
from harness.types import Point, Runtime

NAN = float("nan")
RELATIVE = 1e-3
ACCEPTED = {"n": 112.0, "d": 48.0, "mean": 0.01, "std": 2.0, "max": 10.0, "dead": 0.0, "outlying": 1.0, "spread": 0.5}
ACCEPTED |= {"mean_at_00": 0.1, "mean_at_01": -3.0, "variance_at_00": 0.2, "covariance_at_00_01": -0.6, "singular_1": 0.4, "effective_rank": 20.0}
SLACK = RELATIVE * 2.0  # of the spread over all entries, which is larger than the mean
FINAL = Point("lm", "final_norm")


def fields(x: np.ndarray) -> dict[str, float]:
    return {**summary(x), **sketch(x)}


def rows(n: int = 64, d: int = 24, seed: int = 0) -> np.ndarray:
    """Correlated features with a mean of their own, as models have them."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / np.sqrt(d) + 2 * rng.standard_normal(d)


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0]


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ({}, []),
        ({"mean": 0.01 + 0.99 * SLACK}, []),
        ({"mean": 0.01 - 0.99 * SLACK}, []),
        ({"mean": 0.01 + 1.01 * SLACK}, ["mean"]),
        ({"mean": 0.01 - 1.01 * SLACK}, ["mean"]),
        ({"max": 10 * (1 + 0.99 * RELATIVE)}, []),
        ({"max": 10 * (1 + 1.01 * RELATIVE)}, ["max"]),
        ({"std": 2.0 * (1 + 1.01 * RELATIVE)}, ["std"]),
        ({"n": 111.0}, ["n"]),
        ({"d": 48.0 + 1e-9}, ["d"]),
        ({"dead": 1.0, "outlying": 0.0}, ["dead", "outlying"]),
        ({"mean": NAN}, ["mean"]),
        ({"n": NAN}, ["n"]),
        ({"max": float("inf")}, ["max"]),
        ({"mean_at_00": 0.1 + 0.99 * SLACK, "mean_at_01": -3 * (1 + 0.99 * RELATIVE)}, []),
        ({"mean_at_00": 0.1 + 1.01 * SLACK, "mean_at_01": -3 * (1 + 1.01 * RELATIVE)}, ["mean_at_00", "mean_at_01"]),
        ({"variance_at_00": 0.2 + 0.99 * RELATIVE * 0.25, "covariance_at_00_01": -0.6 * (1 + 0.99 * RELATIVE)}, []),
        ({"variance_at_00": 0.2 + 1.01 * RELATIVE * 0.25, "covariance_at_00_01": -0.6 * (1 + 1.01 * RELATIVE)}, ["variance_at_00", "covariance_at_00_01"]),
        ({"singular_1": 0.4 + 0.99 * RELATIVE, "effective_rank": 20 * (1 - 0.99 * RELATIVE)}, []),
        ({"singular_1": 0.4 + 1.01 * RELATIVE, "effective_rank": 20 * (1 - 1.01 * RELATIVE)}, ["singular_1", "effective_rank"]),
    ],
)
def test_a_field_moves_when_it_leaves_its_tolerance_and_counts_move_at_once(changed: Mapping[str, float], moved: list[str]) -> None:
    assert list(moved_fields(ACCEPTED, {**ACCEPTED, **changed})) == moved


def test_every_measured_field_is_of_a_kind_and_every_kind_is_measured() -> None:
    assert {kind_of(name) for name in fields(rows())} == set(KINDS)
    assert kind_of("something_else") is None


def test_an_accepted_nan_is_never_reached_again() -> None:
    assert set(moved_fields({**ACCEPTED, "mean": NAN}, {**ACCEPTED, "mean": NAN})) == {"mean"}


def test_a_field_that_came_or_went_is_told_with_what_is_absent() -> None:
    gone = {name: value for name, value in ACCEPTED.items() if name != "max"}
    assert moved_fields(ACCEPTED, gone) == {"max": Moved(10.0, None, 0.01)}
    assert moved_fields(gone, ACCEPTED) == {"max": Moved(None, 10.0, 0.0)}


def test_without_an_accepted_spread_the_tolerance_is_of_the_value_alone() -> None:
    assert moved_fields({"mean": 1.0}, {"mean": 1.0005}) == {}
    assert list(moved_fields({"mean": 0.0}, {"mean": 1e-12})) == ["mean"]


@pytest.mark.parametrize(
    ("name", "difference", "floors"),
    [
        ("mean", 0.005, 1.0),  # 1 % of a spread of 0.5
        ("max", -0.01, 2.0),
        ("mean_at_00", 0.005, 1.0),
        ("variance_at_00", 0.0025, 1.0),  # of the variance of 0.25, which is more than the field
        ("covariance_at_00_01", 0.006, 1.0),  # of the field, which is more than the variance
        ("singular_1", 0.03, 3.0),
        ("effective_rank", -0.2, 1.0),
        ("n", 1.0, None),
        ("dead", 1.0, None),
    ],
)
def test_a_difference_is_told_in_floors_of_what_the_field_measures(name: str, difference: float, floors: float | None) -> None:
    one = Moved(ACCEPTED[name], ACCEPTED[name] + difference, 0.0)
    assert noise_floors(name, one, ACCEPTED, 0.01) == (None if floors is None else pytest.approx(floors))
    assert noise_floors(name, one, ACCEPTED, None) is None
    assert noise_floors(name, one._replace(accepted=None), ACCEPTED, 0.01) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_row_that_moves_by_the_floor_moves_no_mean_or_projection_by_more_than_a_few_floors(seed: int) -> None:
    x, rng = rows(seed=seed), np.random.default_rng(seed)
    before, floor = fields(x), 1e-2
    after = fields(x + floor * before["spread"] * rng.standard_normal(x.shape))
    floors = [noise_floors(name, Moved(before[name], after[name], 0.0), before, floor) for name in before]
    assert 0.2 < max(told for told in floors if told is not None) < 8


# What would explain a pattern


def unrelated(x: np.ndarray) -> np.ndarray:
    return np.stack([np.random.default_rng(column).permutation(x[:, column]) for column in range(x.shape[1])], axis=1)


def with_first(x: np.ndarray, value: float) -> np.ndarray:
    changed = x.copy()
    changed[0, 0] = value
    return changed


PATTERNS: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "a row less": (lambda x: x[1:], "other samples: nothing else can be compared (n was 64, is 63)"),
    "another width": (lambda x: x[:, 1:], "features of another width: another point or model (d was 24, is 23)"),
    "tripled": (lambda x: 3 * x, "everything is 3 times what it was"),
    "an embedding scale lost": (lambda x: x / 48**0.5, "everything is 0.1443 times what it was"),
    "a constant": (lambda x: x + 0.5, "a shift: +0.5 was added to every feature"),
    "a constant taken away": (lambda x: x - 0.25, "a shift: -0.25 was added to every feature"),
    "a vector": (lambda x: x + np.random.default_rng(2).standard_normal(x.shape[1]), "a shift: one vector was added to every row"),
    "centred": (lambda x: x - x.mean(0), "a shift: one vector was added to every row"),
    "units reversed": (lambda x: x[:, ::-1], "a permutation of the units"),
    "two units exchanged": (lambda x: x[:, [1, 0, *range(2, x.shape[1])]], "a permutation of the units"),
    "rotated": (lambda x: x @ rotation(x.shape[1]), "a rotation of the features"),
    "negated": (lambda x: -x, "a rotation of the features"),
    "columns of other rows": (unrelated, "features no longer go together"),
    "two units zeroed": (lambda x: x * (np.arange(x.shape[1]) > 1), "2 more features are constant"),
    "one row for all": (lambda x: np.repeat(x[:1], len(x), 0), "every row is alike"),
    "rows nearer each other": (lambda x: x.mean(0) + 0.2 * (x - x.mean(0)), "rows differ less from each other (spread x 0.2)"),
    "one channel massive": (lambda x: x * np.where(np.arange(x.shape[1]) == 3, 100, 1), "features of outlying magnitude: 0 then, 1 now"),
    "slightly other weights": (lambda x: x + 0.02 * np.random.default_rng(3).standard_normal(x.shape), "a little of everything"),
    "another model": (lambda x: rows(seed=9) * 3, "everything moved, by no single factor"),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_pattern_of_moved_fields_says_what_happened(pattern: str) -> None:
    change, said = PATTERNS[pattern]
    x = rows()
    told = explanation(fields(x), fields(change(x)), 1e-6)
    assert told.startswith(said)


def test_one_outlier_among_many_entries_is_told_as_one() -> None:
    x = rows(20000)
    told = explanation(fields(x), fields(with_first(x, 1.2 * x.max())))
    assert told.startswith("a few entries")


@pytest.mark.parametrize(("floor", "numerics"), [(1e-2, True), (1e-4, False), (None, False)])
def test_what_moved_by_a_few_floors_only_is_numerics(floor: float | None, numerics: bool) -> None:
    x = rows()
    after = fields(x + 2e-2 * np.random.default_rng(4).standard_normal(x.shape))
    told = explanation(fields(x), after, floor)
    assert told.startswith("numerics: nothing moved more than" if numerics else "a little of everything")


def test_fields_that_came_or_went_say_nothing_of_the_features() -> None:
    now = fields(rows())
    assert explanation({name: now[name] for name in summary(rows())}, now).startswith("other fields are measured now (covariance_at_00_01,")


# The extension


def test_nothing_moved_means_the_snapshot_matches() -> None:
    near, far = {**ACCEPTED, "mean": 0.011}, {**ACCEPTED, "mean": 0.02}
    extension = StatisticsExtension()
    assert extension.matches(serialized_data=json.dumps(near), snapshot_data=json.dumps(ACCEPTED))
    assert not extension.matches(serialized_data=json.dumps(far), snapshot_data=json.dumps(ACCEPTED))


def test_the_difference_is_a_table_with_its_explanation_and_the_command_that_accepts_it() -> None:
    measured = {**ACCEPTED, "mean": 0.02, "n": 111.0}
    heading, *lines, why, unit, last = told_in(lambda: 0.01)().diff_lines(json.dumps(measured), json.dumps(ACCEPTED))
    assert heading.split() == ["field", "accepted", "measured", "difference", "noise", "floors", "tolerance"]
    assert [line.split() for line in lines] == [["n", "112", "111", "-1", "0"], ["mean", "0.01", "0.02", "+0.01", "2", "0.002"]]
    assert len({len(line) for line in (heading, *lines)}) == 1
    assert why == "would be explained by other samples: nothing else can be compared (n was 112, is 111)"
    assert unit == "one noise floor is 0.01 of the spread over samples, measured on this machine"
    assert "--snapshot-update" in last


def test_many_moved_projections_are_counted_rather_than_listed() -> None:
    x = rows()
    lines = list(StatisticsExtension().diff_lines(json.dumps(fields(x @ rotation(24))), json.dumps(fields(x))))
    assert sum(line.startswith("mean_at") for line in lines) == 4
    assert "… and 12 more of the mean" in lines
    assert not any("one noise floor is" in line for line in lines)
    assert len(lines) < 25


def test_the_floor_is_asked_only_when_something_is_told_of_an_accepted_snapshot() -> None:
    asked: list[int] = []
    extension = told_in(lambda: asked.append(1))()
    extension.matches(serialized_data=json.dumps(ACCEPTED), snapshot_data=json.dumps(ACCEPTED))
    list(extension.diff_lines(json.dumps(ACCEPTED), ""))
    assert asked == []
    list(extension.diff_lines(json.dumps({**ACCEPTED, "mean": 1.0}), json.dumps(ACCEPTED)))
    assert asked == [1]


def test_without_an_accepted_snapshot_every_field_is_new() -> None:
    _, *lines, _ = StatisticsExtension().diff_lines(json.dumps(ACCEPTED), "")
    assert sorted(line.split()[:3] for line in lines) == sorted([name, "absent", f"{value:g}"] for name, value in ACCEPTED.items())


SNAPSHOT = """
import json, os
from harness.snapshot import told_in

def test_statistics(snapshot):
    accepted = snapshot.use_extension(told_in(lambda: 1e-3))
    held = json.loads(os.environ["MEASURED"]) == accepted(name="cpu")
    assert held, "\\n".join(accepted.get_assert_diff())
"""


def test_a_snapshot_is_accepted_by_the_command_then_green_then_red_with_the_table(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SNAPSHOT)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(x: np.ndarray, *options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py", *options]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        environment = {**inherited, "MEASURED": json.dumps(fields(x)), "PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    x = rows()
    assert run(x)[0] == 1
    assert run(x, "--snapshot-update")[0] == 0
    (path,) = (tmp_path / "__snapshots__").rglob("*.json")
    assert json.loads(path.read_text()) == fields(x)
    assert run(x + 1e-6 * np.random.default_rng(0).standard_normal(x.shape))[0] == 0
    status, told = run(x[:, ::-1])
    assert status == 1
    assert "would be explained by a permutation of the units" in told
    assert "noise floors" in told


# A real network


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return subjects.load(subjects.resolve("toy_lm:mock"), Runtime())


@pytest.fixture(scope="module")
def taken() -> Callable[[Adapter], np.ndarray]:
    samples = readers.read("libero_instructions").samples[:40]
    return lambda adapter: pooled(adapter, samples, [FINAL])[FINAL]


def perturbed(by: float) -> Adapter:
    """The network with every weight multiplied by one plus noise of this size."""
    import torch

    other = subjects.load(subjects.resolve("toy_lm:mock"), Runtime())
    generator = torch.Generator().manual_seed(0)
    for parameter in other.model.parameters():
        parameter.mul_(1 + by * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x @ rotation(x.shape[1]), "a rotation"),
        (lambda x: x[:, np.random.default_rng(0).permutation(x.shape[1])], "a permutation"),
        (lambda x: x[:, [1, 0, *range(2, x.shape[1])]], "a permutation"),
        (lambda x: x + 0.1, "a shift: +0.1 was"),
        (lambda x: x * 1.01, "everything is 1.01 times"),
        (lambda x: x, None),
        (lambda x: x * (1 + 1e-6 * np.random.default_rng(0).standard_normal(x.shape)), None),
        (lambda x: x * (1 + 1e-4 * np.random.default_rng(0).standard_normal(x.shape)), None),
    ],
    ids=["rotated", "permuted", "two units exchanged", "shifted", "scaled", "as it was", "noise of 1e-6", "noise of 1e-4"],
)
def test_a_model_s_features_are_red_when_they_are_others_and_green_for_float_noise(
    adapter: Adapter, taken: Callable[[Adapter], np.ndarray], change: Callable[[np.ndarray], np.ndarray], said: str | None
) -> None:
    accepted, measured = fields(taken(adapter)), fields(change(taken(adapter)))
    held = StatisticsExtension().matches(serialized_data=json.dumps(measured), snapshot_data=json.dumps(accepted))
    assert held == (said is None)
    assert held or explanation(accepted, measured, 1e-6).startswith(said)


@pytest.mark.parametrize(("by", "held"), [(0.0, True), (1e-6, True), (1e-3, False), (1e-2, False)])
def test_a_slightly_changed_network_is_red_and_the_same_one_is_green(adapter: Adapter, taken: Callable[[Adapter], np.ndarray], by: float, held: bool) -> None:
    accepted, measured = fields(taken(adapter)), fields(taken(perturbed(by)))
    assert (moved_fields(accepted, measured) == {}) == held
    assert held or explanation(accepted, measured, 1e-6).startswith("a little of everything")


def test_marginals_alone_do_not_see_a_permutation_of_the_units(adapter: Adapter, taken: Callable[[Adapter], np.ndarray]) -> None:
    x = taken(adapter)
    assert moved_fields(summary(x), summary(x[:, ::-1])) == {}
    assert moved_fields(sketch(x), sketch(x[:, ::-1])) != {}
