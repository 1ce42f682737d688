"""SmolLM2 against its relatives on LIBERO's instructions: in bfloat16, rounded to int8, fine-tuned for a few steps, and untrained.

Variants, features and noise floors are kept below `$HARNESS_HOME` between runs, under digests of all that they depend on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fixtures.make_smollm2_variants import TRAINED_FROM, make
from harness import readers, subjects
from harness.compare import Drift, compare
from harness.store import Store

SOURCE, BLOCKS = "smollm2:real", 30
pytestmark = pytest.mark.skipif((command := subjects.missing(SOURCE)) is not None, reason=f"{SOURCE} has no weights here\n  next     {command}")


def compared(after: str, **options: Any) -> Drift:
    """SmolLM2 and another side, without probes."""
    store = Store(subjects.home() / "store")
    return compare(SOURCE, after, stream=readers.stream("libero_instructions"), store=store, **{"reference": None, "draws": 10, **options}).drift


def changes(found: Drift) -> list[float]:
    return [point.change for point in found.points]


def test_bfloat16_is_noise() -> None:
    found = compared(f"{SOURCE}@bfloat16")
    assert found.verdict.word == "noise", found.verdict.reason
    assert found.first is None
    assert max(point.floors for point in found.points) < 2  # the floor itself is bfloat16 on 16 of the 112 samples
    assert 0 < max(weight.change for weight in found.modules) < 2**-8  # half a unit in the last place is 2**-9 of a number at most


def test_int8_is_drift_from_the_first_block_on() -> None:
    reference = "minilm:real"
    found = compared(f"{SOURCE}={make('int8')}", reference=reference)
    assert (found.verdict.word, found.first) == ("drift", "lm.00.output"), found.verdict.reason
    assert changes(found)[0] == 0 and 0.005 < min(changes(found)[1:]) and max(changes(found)) < 0.5
    blocks = [found.weights[f"lm.{block:02d}.output"].change for block in range(BLOCKS)]
    assert 0.005 < min(blocks) and max(blocks) < 0.012  # a step of 1/127 of a row's largest weight, evenly rounded
    assert found.weights["lm.embedding"].change == found.weights["lm.final_norm"].change == 0
    assert all(point.cka is not None and point.cka.value > 0.95 for point in found.points)
    if subjects.missing(reference) is None:  # what moved that far still reads the tasks
        assert len(found.probes) == BLOCKS + 2
        assert not found.worse
        assert max(abs(probe.gain) for probe in found.probes) < 0.1


def test_a_short_fine_tune_is_drift_from_the_first_trained_block_on() -> None:
    found = compared(f"{SOURCE}={make('finetuned')}")
    first = f"lm.{TRAINED_FROM:02d}.output"
    assert (found.verdict.word, found.first) == ("drift", first), found.verdict.reason
    assert [point.place for point in found.points if point.moved] == [point.place for point in found.points if point.change]
    trained = [name for name, weight in found.weights.items() if weight.change]
    assert trained == [f"lm.{block:02d}.output" for block in range(TRAINED_FROM, BLOCKS)]
    moved = [point.change for point in found.points if point.moved]
    assert moved[0] < 0.01 < 0.1 < moved[-1]  # weights move by about as much everywhere, what they do adds up
    assert np.all(np.diff(moved) > 0)


def test_untrained_weights_are_a_different_model() -> None:
    found = compared("smollm2:random")
    assert (found.verdict.word, found.first) == ("different model", "lm.embedding"), found.verdict.reason
    assert min(changes(found)) > 0.5


def test_the_bisection_alone_says_the_same() -> None:
    found = compared(f"{SOURCE}={make('finetuned')}", quick=True)
    assert (found.verdict.word, found.first) == ("drift", f"lm.{TRAINED_FROM:02d}.output")
    assert len(found.points) == found.looked <= 7 < found.places
