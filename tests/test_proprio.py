"""The robot's state as a feature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness import subjects
from harness.adapters.proprio import STATE, Proprio
from harness.errors import DamagedError, UsageError
from harness.extract import pooled
from harness.types import Point, Runtime, Sample, Subject, Weights

STATES = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
SAMPLES = [Sample(f"s{i}", "word " * (3 - i), state=state) for i, state in enumerate(STATES)]


@pytest.fixture(scope="module")
def adapter() -> Proprio:
    return subjects.load(subjects.resolve("proprio:mock"), Runtime())


@pytest.mark.parametrize("pooling", ["mean", "last", "mean:state"])
def test_features_are_the_states_themselves(adapter, pooling) -> None:  # noqa: ANN001
    rows = pooled(adapter, SAMPLES, [STATE], pooling=pooling, batch_size=2)[STATE]
    assert rows.dtype == np.float32
    assert np.array_equal(rows, STATES)


def test_a_point_is_one_token_wide_as_its_clause_says(adapter) -> None:  # noqa: ANN001
    values = adapter.capture(adapter.encode(SAMPLES), adapter.clauses)
    assert {point: value.shape for point, value in values.items()} == {STATE: (3, 1, 7)}
    assert adapter.clauses[STATE].width == 7


def test_a_capture_is_a_copy(adapter) -> None:  # noqa: ANN001
    batch = adapter.encode(SAMPLES)
    adapter.capture(batch, [STATE])[STATE][:] = 0
    assert np.array_equal(batch.inputs["state"].numpy(), STATES)


@pytest.mark.parametrize("state", [np.ones(8), np.ones((1, 7)), np.array([*range(6), np.nan]), np.array([*range(6), np.inf]), None])
def test_unfit_states_are_refused_with_the_samples_name(adapter, state) -> None:  # noqa: ANN001
    with pytest.raises(UsageError, match="s1"):
        adapter.encode([SAMPLES[0], replace(SAMPLES[1], state=state)])


def test_there_is_nothing_else_to_ask_for(adapter) -> None:  # noqa: ANN001
    assert adapter.unlike_checkpoint() == []
    assert adapter.stacks() == ()
    for ask in (lambda: adapter.final_norm(Point("state", "final_norm")), lambda: adapter.framework_tuple(adapter.encode(SAMPLES), "state")):
        with pytest.raises(UsageError, match="state"):
            ask()


@pytest.mark.parametrize("width", [None, 0, "7", True])
def test_a_card_says_how_wide_a_state_is(width) -> None:  # noqa: ANN001
    with pytest.raises(DamagedError, match=r"config\.width"):
        Proprio.load(Subject("card", "mock", "proprio", {"width": width}, Weights("random", "0", seed=0)), Runtime())
