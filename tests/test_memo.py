"""A kept measurement is given back under the very same conditions only, and never when its file was touched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.memo import Memo
from harness.store import StoreWarning
from harness.types import Measurement

PARTS = {"under": {"weights": "w0", "versions": {"torch": "2.13"}}, "measurement": ["probe", "c0", {"layer": 5}], "seed": 0}
MEASURED = Measurement(0.75, low=0.5, high=0.875, detail="112 tasks", control=0.01)


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "measurements")


def file_of(memo: Memo) -> Path:
    (path,) = memo.root.rglob("*.json")
    return path


def test_what_was_never_kept_is_none_and_leaves_no_trace(memo: Memo, recwarn: pytest.WarningsRecorder) -> None:
    assert memo.recall(PARTS) is None
    assert not memo.root.exists()
    assert not recwarn.list


@pytest.mark.parametrize("value", [0.75, 7, True, "raw", [1, 2], [0.5], 1e-300, float("inf")])
def test_a_measurement_comes_back_as_it_was_and_says_when_it_was_made(memo: Memo, value: object) -> None:
    memo.keep(PARTS, Measurement(value, low=0.5, high=0.875, detail="112 tasks", control=0.01))  # type: ignore[arg-type]
    found = Memo(memo.root).recall(PARTS)
    assert found is not None
    assert (found.value, type(found.value)) == (value, type(value))
    assert (found.low, found.high, found.control) == (0.5, 0.875, 0.01)
    assert found.detail.startswith("112 tasks (kept from 2")
    assert found.detail.endswith(" UTC)")


def test_a_measurement_without_detail_gets_one_without_a_leading_space(memo: Memo) -> None:
    memo.keep(PARTS, Measurement(1.0))
    found = memo.recall(PARTS)
    assert found is not None
    assert found.detail.startswith("(kept from ")


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"under": {"weights": "w1", "versions": {"torch": "2.13"}}}, {"measurement": ["probe", "c0", {"layer": 6}]}, {"pack": None}],
    ids=["seed", "deep inside", "parameter", "a part more"],
)
def test_any_other_condition_is_another_measurement(memo: Memo, changed: Mapping[str, object]) -> None:
    memo.keep(PARTS, MEASURED)
    assert memo.recall({**PARTS, **changed}) is None
    assert memo.recall(dict(reversed(PARTS.items()))) is not None  # the order of the parts is no condition


def test_the_last_measurement_kept_is_the_one_recalled(memo: Memo) -> None:
    memo.keep(PARTS, MEASURED)
    memo.keep(PARTS, Measurement(0.25))
    found = memo.recall(PARTS)
    assert found is not None
    assert found.value == 0.25
    assert [path.name for path in file_of(memo).parent.iterdir()] == [file_of(memo).name]


def edited(text: str) -> str:
    return text.replace("0.75", "0.76", 1)


def without_digest(text: str) -> str:
    return json.dumps({name: value for name, value in json.loads(text).items() if name != "blake3"})


@pytest.mark.parametrize(
    "damage",
    [edited, without_digest, lambda text: text[:-10], lambda text: "", lambda text: "[]", lambda text: "null"],
    ids=["a figure edited", "no digest", "cut short", "empty", "a list", "null"],
)
def test_a_file_that_was_touched_is_not_believed(memo: Memo, damage) -> None:
    memo.keep(PARTS, MEASURED)
    file_of(memo).write_text(damage(file_of(memo).read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.warns(StoreWarning, match="made again"):
        assert memo.recall(PARTS) is None
    memo.keep(PARTS, MEASURED)
    assert memo.recall(PARTS) is not None
