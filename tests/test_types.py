"""Points have one spelling each, and the data types cannot be changed in place."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.types import Batch, Features, Point, Runtime, Sample, Subject, Weights

WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
POINTS = st.builds(Point, WORDS, WORDS, st.none() | st.integers(-200, 200), st.none() | st.integers(0, 200))


@given(point=POINTS)
def test_a_point_survives_a_round_trip_through_text(point: Point) -> None:
    assert Point.parse(str(point)) == point


@given(point=POINTS, other=POINTS)
def test_different_points_have_different_names(point: Point, other: Point) -> None:
    assert (str(point) == str(other)) == (point == other)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("lm.embedding", Point("lm", "embedding")),
        ("lm.05.output", Point("lm", "output", 5)),
        ("lm.5.output", Point("lm", "output", 5)),
        ("lm.005.output", Point("lm", "output", 5)),
        ("  lm.-1.output\n", Point("lm", "output", -1)),
        ("lm.123.input", Point("lm", "input", 123)),
        ("expert.t03.05.output", Point("expert", "output", 5, 3)),
        ("expert.t3.action", Point("expert", "action", None, 3)),
        ("act_head.input", Point("act_head", "input")),
        ("vision2.t9", Point("vision2", "t9")),
    ],
)
def test_a_point_is_read_in_every_documented_form(text: str, point: Point) -> None:
    assert Point.parse(text) == point


@pytest.mark.parametrize(
    ("point", "text"),
    [
        (Point("lm", "output", 5), "lm.05.output"),
        (Point("lm", "output", 123), "lm.123.output"),
        (Point("lm", "output", -1), "lm.-1.output"),
        (Point("expert", "output", 0, 0), "expert.t00.00.output"),
        (Point("lm", "final_norm"), "lm.final_norm"),
    ],
)
def test_a_point_is_written_with_two_digits(point: Point, text: str) -> None:
    assert str(point) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "lm", "lm.", ".output", "lm..output", "lm.05", "lm.05.", "LM.05.output", "lm.x5.output.more", "lm.05.06.output", "lm.1.5.output"]
    + ["lm.05.t03.output", "lm.t-1.output", "lm 05 output", "5.lm.output", "lm.+5.output", "lm.--5.output", "lm.05.out put", "lm.05.output\nlm"],
)
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not an extraction point(.|\n)*expected stack\.stream") as caught:
        Point.parse(text)
    assert repr(text) in str(caught.value)


def test_points_of_one_layer_are_equal_and_hash_alike() -> None:
    assert {Point.parse("lm.5.output"), Point.parse("lm.05.output")} == {Point("lm", "output", 5)}
    assert Point("lm", "output", 5) != Point("lm", "input", 5)


def test_points_with_and_without_a_layer_can_be_sorted() -> None:
    assert len(sorted([Point("lm", "input", 0), Point("lm", "input")])) == 2


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Point("lm", "output", 5), "layer"),
        (Sample("a"), "instruction"),
        (Weights("random", "d"), "digest"),
        (Runtime(), "dtype"),
        (Features(np.zeros((1, 2), np.float32), ("a",), "k"), "key"),
    ],
)
def test_nothing_is_changed_in_place(value: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError, match=field):
        setattr(value, field, None)


def test_a_batch_with_other_inputs_is_another_batch() -> None:
    batch = Batch(("a",), {"x": 1, "y": 2}, {})
    changed = batch.with_inputs(y=3, z=4)
    assert dict(changed.inputs) == {"x": 1, "y": 3, "z": 4}
    assert dict(batch.inputs) == {"x": 1, "y": 2}
    assert (changed.sample_ids, changed.tokens) == (batch.sample_ids, batch.tokens)


def test_a_subject_is_named_by_model_and_scale() -> None:
    subject = Subject("toy", "mock", "language", {}, Weights("random", "d", seed=0))
    assert subject.id == "toy:mock"
    assert replace(subject, scale="real").id == "toy:real"


def test_the_processor_is_one_device_class() -> None:
    assert Runtime(dtype="bfloat16", attention="sdpa").device_class == "cpu"


def test_mutable_defaults_are_not_shared_between_samples() -> None:
    assert Sample("a").images is not Sample("b").images
