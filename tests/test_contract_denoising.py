"""Measurements of models that denoise actions: shapes, spans, steps, noise, cost, queue, and agreement between frameworks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness import readers, subjects
from harness.adapters import Adapter
from harness.contract.action_queue import action_queue
from harness.contract.frameworks import frameworks
from harness.contract.naive_mean import naive_mean
from harness.contract.noise_use import noise_use
from harness.contract.passes import passes
from harness.contract.sampling_cost import sampling_cost
from harness.contract.span_starts import span_starts
from harness.contract.stack_shape import stack_shape
from harness.contract.step_spread import step_spread
from harness.errors import UnknownNameError, UsageError
from harness.types import Point, Recording, Runtime, Sample

FAMILIES = ["openpi", "lerobot_pi0", "pi0"]


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return subjects.load(subjects.resolve("lerobot_pi0_tiny:checkpoint"), Runtime())


@pytest.fixture(scope="module")
def samples(adapter: Adapter) -> tuple[Sample, ...]:
    """Prompts of different length, so that the shorter ones are padded."""
    photos, words = readers.read("photos").samples[:3], ("open the drawer", "lift", "put the cup on")
    states = np.random.default_rng(0).normal(size=(3, adapter.state_width)).astype(np.float32)
    return tuple(
        replace(photo, instruction=text, images=dict.fromkeys(adapter.cameras, photo.images["primary"]), state=state)
        for photo, text, state in zip(photos, words, states, strict=True)
    )


@pytest.fixture(scope="module")
def recording(adapter: Adapter, samples: tuple[Sample, ...]) -> Recording:
    return adapter.record(samples)


def test_a_stack_has_its_blocks_tokens_and_width_and_unlike_blocks_have_none(adapter: Adapter, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert stack_shape(adapter, samples, stack="expert", step=1).value == [3, 1, 6, 32]
    assert stack_shape(adapter, samples, stack="lm", since="text").value == [3, 1, 10, 48]
    with pytest.raises(UnknownNameError, match="expert 7"):
        stack_shape(adapter, samples, stack="expert", step=7)
    capture = adapter.capture
    monkeypatch.setattr(adapter, "capture", lambda batch, points: {point: value[:, point.layer :] for point, value in capture(batch, points).items()})
    assert stack_shape(adapter, samples, stack="lm").value[0] == 0


def test_spans_begin_one_behind_the_other(adapter: Adapter, samples: tuple[Sample, ...]) -> None:
    assert span_starts(adapter, samples, stack="lm", spans=["image.0", "image.1", "text"]).value == [0, 4, 8, 18]


def test_the_state_is_still_between_steps_and_actions_are_not(adapter: Adapter, recording: Recording) -> None:
    assert step_spread(adapter, recording, stack="expert", span="state").value < 1e-6
    assert step_spread(adapter, recording, stack="expert", span="action").low > 0.01
    moved = Point("expert", "output", 1, 2)
    shaken = recording._replace(values={**recording.values, moved: recording.values[moved] * 1.01})
    assert step_spread(adapter, shaken, stack="expert", span="state").value == pytest.approx(0.01, rel=0.01)
    with pytest.raises(UsageError, match="does not run in several denoise steps"):
        step_spread(adapter, recording, stack="lm", span="text")


def test_the_prefix_runs_once_and_the_expert_in_every_step(adapter: Adapter, recording: Recording) -> None:
    assert [passes(adapter, recording, stack=stack).value for stack in ("lm", "expert")] == [1, 3]


def test_noise_moves_the_expert_and_nothing_of_the_prefix(adapter: Adapter, recording: Recording) -> None:
    assert noise_use(adapter, recording, point="lm.final_norm").value == 0
    assert noise_use(adapter, recording, point="expert.t00.final_norm").value > 0.01


def test_padding_dilutes_a_mean_in_proportion_to_its_share(adapter: Adapter, recording: Recording) -> None:
    assert naive_mean(adapter, recording, point="lm.final_norm").low > 0.01
    assert naive_mean(adapter, recording, point="vision.final_norm").value < 1e-6


def test_a_longer_loop_costs_more_operations(adapter: Adapter, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    one = sampling_cost(adapter, samples).value
    encode = adapter.encode
    monkeypatch.setattr(adapter, "encode", lambda given: (batch := encode(given)).with_inputs(time=batch.inputs["time"].repeat(2)))
    assert sampling_cost(adapter, samples).value == pytest.approx(2 * one - 1, rel=0.01)


def test_the_queue_keeps_the_model_still_until_it_is_reset(adapter: Adapter, samples: tuple[Sample, ...]) -> None:
    assert [action_queue(adapter, samples, reset=reset).value for reset in (False, True)] == [0, 1]


def test_frameworks_agree_and_the_first_point_that_does_not_is_named(adapter: Adapter, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = frameworks(adapter, samples, families=FAMILIES, limit=256)
    assert agreed.value < 256
    assert agreed.detail.count("first beyond 256 floors: none") == 2
    layers = adapter.model.language_model.layers
    original = layers[1].mlp.forward
    monkeypatch.setattr(layers[1].mlp, "forward", lambda x: 1.001 * original(x))
    assert frameworks(adapter, samples, families=FAMILIES, limit=256).detail.count("first beyond 256 floors: lm.01.output") == 2
