"""Accepted statistics: what counts as moved, and the table that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from harness.snapshot import RELATIVE, StatisticsExtension, moved_fields

NAN = float("nan")
ACCEPTED = {"n": 112.0, "d": 48.0, "mean": 0.01, "std": 2.0, "max": 10.0, "dead": 0.0, "outlying": 1.0}
SLACK = RELATIVE * 2.0  # of the spread, which is larger than the mean


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
    ],
)
def test_a_field_moves_when_it_leaves_its_tolerance_and_counts_move_at_once(changed: Mapping[str, float], moved: list[str]) -> None:
    assert list(moved_fields(ACCEPTED, {**ACCEPTED, **changed})) == moved


def test_an_accepted_nan_is_never_reached_again() -> None:
    assert set(moved_fields({**ACCEPTED, "mean": NAN}, {**ACCEPTED, "mean": NAN})) == {"mean"}


def test_a_field_that_came_or_went_is_told_with_what_is_absent() -> None:
    gone = {name: value for name, value in ACCEPTED.items() if name != "max"}
    assert moved_fields(ACCEPTED, gone) == {"max": (10.0, None, 0.01)}
    assert moved_fields(gone, ACCEPTED) == {"max": (None, 10.0, 0.0)}


def test_without_an_accepted_spread_the_tolerance_is_of_the_value_alone() -> None:
    assert moved_fields({"mean": 1.0}, {"mean": 1.0005}) == {}
    assert list(moved_fields({"mean": 0.0}, {"mean": 1e-12})) == ["mean"]


def test_nothing_moved_means_the_snapshot_matches() -> None:
    near, far = {**ACCEPTED, "mean": 0.011}, {**ACCEPTED, "mean": 0.02}
    extension = StatisticsExtension()
    assert extension.matches(serialized_data=json.dumps(near), snapshot_data=json.dumps(ACCEPTED))
    assert not extension.matches(serialized_data=json.dumps(far), snapshot_data=json.dumps(ACCEPTED))


def test_the_difference_is_a_table_with_the_command_that_accepts_it() -> None:
    measured = {**ACCEPTED, "mean": 0.02, "n": 111.0}
    heading, *rows, last = StatisticsExtension().diff_lines(json.dumps(measured), json.dumps(ACCEPTED))
    assert heading.split() == ["field", "accepted", "measured", "difference", "tolerance"]
    assert [row.split() for row in rows] == [["n", "112", "111", "-1", "0"], ["mean", "0.01", "0.02", "+0.01", "0.002"]]
    assert len({len(line) for line in (heading, *rows)}) == 1
    assert "--snapshot-update" in last


def test_without_an_accepted_snapshot_every_field_is_new() -> None:
    _, *rows, _ = StatisticsExtension().diff_lines(json.dumps(ACCEPTED), "")
    assert sorted(row.split()[:3] for row in rows) == sorted([name, "absent", f"{value:g}"] for name, value in ACCEPTED.items())
