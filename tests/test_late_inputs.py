"""What reaches only a late stack may be missing while no point of that stack is asked for: π0's prefix needs no robot state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness import readers, subjects
from harness.adapters import Adapter
from harness.errors import UsageError
from harness.types import Point, Runtime, Sample

PREFIX = Point("lm", "final_norm")


@pytest.fixture(params=["openpi", "lerobot_pi0", "pi0"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return subjects.load(subjects.resolve(f"{request.param}:mock"), Runtime())


def samples(adapter: Adapter) -> list[Sample]:
    photos = readers.read("photos").samples[:2]
    return [replace(photo, images=dict.fromkeys(adapter.cameras, photo.images["primary"]), state=np.ones(adapter.state_width or 7)) for photo in photos]


def test_the_prefix_is_the_same_without_a_state(adapter: Adapter) -> None:
    told = samples(adapter)
    one, other = (adapter.capture(adapter.encode(given), [PREFIX])[PREFIX] for given in (told, [replace(sample, state=None) for sample in told]))
    assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_point_behind_the_state_is_refused_without_one(adapter: Adapter) -> None:
    batch = adapter.encode([samples(adapter)[0], replace(samples(adapter)[1], state=None)])
    for ask in (lambda: adapter.capture(batch, [PREFIX, Point("expert", "embedding", step=0)]), lambda: adapter.forward(batch)):
        with pytest.raises(UsageError, match="no state, which reaches every point of 'expert'"):
            ask()


def test_a_state_in_the_prompt_is_always_needed() -> None:
    adapter = subjects.load(subjects.resolve("openpi_pi05:mock"), Runtime())
    with pytest.raises(UsageError, match="part of this model's prompt"):
        adapter.encode([replace(samples(adapter)[0], state=None)])
