"""Two sides place by place: what moved, which word that earns, where it began, and what is refused with the reason."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from harness import readers, subjects
from harness.cli import _compare
from harness.cli._app import app
from harness.compare import LEAST, NOISE, Comparison, Drift, Place, PointDrift, as_json, compare, point_drift, weight_drift, write
from harness.compare._divergence import first_moved
from harness.compare._floors import UNMEASURED
from harness.compare._probe import ProbeDrift, worse
from harness.compare._same import require_same_inputs, require_same_kind
from harness.compare._sides import from_store, model
from harness.compare._verdict import corrected, verdict
from harness.errors import UnknownNameError, UsageError
from harness.readers import Selection
from harness.store import Key, Store
from harness.types import Point, Runtime, Sample

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "fixtures/data/openvla_tiny/checkpoint"
N, WIDTH, FLOOR = 64, 24, 1e-6
IDS = [f"{episode}/{step}" for episode in range(8) for step in range(8)]
rng = np.random.default_rng(0)
X = (rng.normal(size=(N, WIDTH)) * np.linspace(0.5, 2, WIDTH) + rng.normal(size=WIDTH)).astype(np.float32)
ROTATION = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
UNITS = np.roll(np.arange(WIDTH), 5)
VECTOR = (4 * rng.normal(size=WIDTH)).astype(np.float32)


def drifted(y: np.ndarray, x: np.ndarray = X, **options: Any) -> PointDrift:
    return point_drift("lm.00.output", x, y, IDS[: len(x)], **{"floor": FLOOR, "draws": 8, **options})


def told(change: float, cka: float = 1.0, name: str = "lm.00.output") -> PointDrift:
    """A place that moved by `change`, its geometry as given."""
    found = drifted(X)
    assert found.cka is not None
    return replace(found, place=name, change=change, floors=change / FLOOR, cka=found.cka._replace(value=cka))


# What is measured of one place


@pytest.mark.parametrize(
    ("y", "change", "cka_at_least", "sentence"),
    [
        (X, 0.0, 1.0, ""),
        (X + VECTOR, None, 1 - 1e-6, "one vector added to every sample"),
        (1.5 * X, None, 1 - 1e-6, "one factor on every sample"),
        (X @ ROTATION, None, 1 - 1e-6, "another basis (rotated)"),
        (X[:, UNITS], None, 1 - 1e-6, "another basis (units permuted)"),
        (X + 0.01 * np.random.default_rng(1).normal(size=X.shape).astype(np.float32), None, 0.99, ""),
    ],
    ids=["identical", "shifted", "scaled", "rotated", "permuted", "noisy"],
)
def test_a_place_tells_how_far_and_in_which_way_it_moved(y: np.ndarray, change: float | None, cka_at_least: float, sentence: str) -> None:
    found = drifted(y)
    spread = np.sqrt(X.var(0, dtype=np.float64).mean())
    assert found.change == pytest.approx(np.sqrt(((y.astype(np.float64) - X) ** 2).mean()) / spread if change is None else change, rel=1e-6)
    assert found.floors == pytest.approx(found.change / FLOOR)
    assert found.moved == (found.change > NOISE * FLOOR)
    assert found.cka is not None
    assert found.cka.value >= cka_at_least - 1e-9
    assert found.cka.low <= found.cka.value <= found.cka.high
    assert sentence in str(found.pattern) and bool(sentence) == bool(str(found.pattern))


def test_identical_rows_are_told_as_nothing_moved_in_every_number() -> None:
    found = drifted(X)
    assert (found.change, found.floors, found.turned, found.shift, found.wasserstein, found.ks) == (0, 0, (0, 0), 0, 0, 0)
    assert found.neighbours is not None
    assert found.neighbours.value == found.energy_p == 1
    assert found.features == found.samples == ()
    assert found.rank is not None and found.rank[0] == found.rank[1]


def test_the_statistics_of_a_place_are_those_of_their_definitions() -> None:
    y = X.copy()
    y[3] += 5  # one sample
    y[:, 7] += 2  # one feature
    found = drifted(y)
    d = (y[:, 7].mean() - X[:, 7].mean()) / np.sqrt((X[:, 7].var(ddof=1) + y[:, 7].var(ddof=1)) / 2)
    assert found.features[0] == (7, pytest.approx(d, rel=1e-5))
    assert found.samples[0][0] == IDS[3]
    assert found.samples[0][1] == pytest.approx(np.sqrt(((y[3] - X[3]) ** 2).mean()) / np.sqrt(X.var(0).mean()), rel=1e-5)
    cosines = [1 - row @ other / np.linalg.norm(row) / np.linalg.norm(other) for row, other in zip(X, y, strict=True)]
    assert found.turned == (pytest.approx(np.mean(cosines), abs=1e-6), pytest.approx(max(cosines), abs=1e-6))
    assert found.largest == (np.abs(X).max(), np.abs(y).max())
    assert found.energy_p == pytest.approx(1 / 200)


def test_a_feature_that_dies_is_counted() -> None:
    y = X.copy()
    y[:, 2] = 1
    assert drifted(y).dead == (0, 1)


@pytest.mark.parametrize(
    ("x", "y", "change"),
    [
        (np.ones_like(X), np.ones_like(X), 0.0),
        (2 * np.ones_like(X), 2.5 * np.ones_like(X), 0.25),
        (np.zeros_like(X), np.ones_like(X), math.inf),
        (np.ones_like(X), X, None),
    ],
    ids=["constant twice", "another constant", "from zero", "came alive"],
)
def test_rows_that_do_not_vary_have_a_change_and_no_geometry(x: np.ndarray, y: np.ndarray, change: float | None) -> None:
    found = drifted(y, x)
    assert found.change == pytest.approx(np.sqrt(((y - x) ** 2).mean()) if change is None else change, rel=1e-6)
    assert not math.isnan(found.floors)
    assert (found.cka, found.neighbours, found.rank) == (None, None, None)


def test_what_is_within_the_noise_leaves_no_feature_changed() -> None:
    few = np.repeat(X[:4], 16, axis=0)  # many ties: any rounding makes every distribution another one
    y = few * np.float32(1 + 1e-6)
    assert drifted(y, few, floor=1e-5).ks == 0
    assert drifted(y, few, floor=1e-9).ks > 0.9


@pytest.mark.parametrize("n", [LEAST, LEAST + 1, 12])
def test_few_samples_are_measured(n: int) -> None:
    found = drifted(X[:n] + VECTOR, X[:n])
    assert found.n == n
    assert found.cka is not None and found.cka.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:7], X[:7], "too few samples"),
        (X, X[:63], "different shapes"),
        (X, X[:, :23], "different shapes"),
        (X, np.where(np.arange(WIDTH) == 1, np.nan, X).astype(np.float32), "NaN or infinity"),
    ],
    ids=["seven samples", "other n", "other width", "NaN"],
)
def test_rows_that_cannot_be_compared_are_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        drifted(y, x)


def test_more_rows_than_are_looked_at_give_the_same_change() -> None:
    many = np.concatenate([X] * 20) + np.random.default_rng(2).normal(size=(20 * N, WIDTH)).astype(np.float32)
    found = point_drift("lm.00.output", many, many + VECTOR, [str(row) for row in range(len(many))], floor=FLOOR, draws=4)
    assert found.n == len(many)
    assert found.cka is not None and found.cka.n == 1000
    assert found.pattern.by_shift == pytest.approx(1, abs=1e-6)


# The verdict


@pytest.mark.parametrize(
    ("points", "first", "word", "words"),
    [
        ([told(0), told(0)], None, "identical", "all 2 places are the same numbers"),
        ([told(0), told(NOISE * FLOOR)], None, "noise", "the largest change of 2 places is 3 noise floors (lm.00.output), and up to 3 are noise"),
        ([told(0), told(4 * FLOOR)], "lm.00.output", "drift", "the first place that moved is lm.00.output"),
        ([told(1.4, 0.2), told(1.4, 0.2)], "lm.00.output", "different model", "median CKA 0.20"),
        ([told(1.4, 1.0), told(1.4, 1.0)], "lm.00.output", "drift", "moved furthest, by 1.4 of the spread"),
        ([told(0), told(0), told(1.4, 0.2)], "lm.00.output", "drift", "moved furthest"),
        ([told(0.5, 0.2), told(0.5, 0.2)], "lm.00.output", "drift", "moved furthest"),
    ],
    ids=["equal", "at the limit", "beyond it", "another geometry", "same geometry", "one place only", "not so far"],
)
def test_one_word_and_its_reason(points: list[PointDrift], first: str | None, word: str, words: str) -> None:
    found = verdict(points, first)
    assert found.word == word
    assert words in found.reason
    assert found.holds == (word in ("identical", "noise"))


def test_p_values_are_corrected_for_the_number_of_places() -> None:
    from scipy.stats import false_discovery_control

    values = np.random.default_rng(0).uniform(size=40) ** 3
    points = [replace(told(0), energy_p=float(value)) for value in values]
    assert [point.energy_q for point in corrected(points)] == pytest.approx(list(false_discovery_control(values)))


@pytest.mark.parametrize(("count", "gain", "high", "red"), [(1, -0.1, -0.01, True), (1, -0.1, 0.01, False), (32, -0.1, -0.01, False), (32, -0.1, -0.06, True)])
def test_a_probe_is_worse_by_more_than_the_number_of_probes_explains(count: int, gain: float, high: float, red: bool) -> None:
    same = ProbeDrift("lm.00.output", 0.8, 0.8, 0.0, 0.0, 0.0, 0.01)
    other = ProbeDrift("lm.01.output", 0.8, 0.8 + gain, gain, 2 * gain - high, high, 0.01)
    assert worse([*[same] * (count - 1), other]) == ([other] if red else [])


# Where it began


@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4), data=st.data())
def test_the_bisection_finds_where_a_stack_begins_to_move(lengths: list[int], data: st.DataObject) -> None:
    places = [Place(Point(f"stack{number}", "output", layer), "mean") for number, length in enumerate(lengths) for layer in range(length)]
    borders = [data.draw(st.integers(0, length)) for length in lengths]
    looked: list[Place] = []

    def moved(place: Place) -> bool:
        looked.append(place)
        assert place.point.layer is not None
        return place.point.layer >= borders[int(place.point.stack.removeprefix("stack"))]

    found = first_moved(places, moved)
    assert found == next((place for place in places if moved(place)), None)


@given(length=st.integers(1, 500), border=st.integers(0, 500))
def test_the_bisection_looks_at_few_places(length: int, border: int) -> None:
    looked: list[int] = []

    def moved(place: Place) -> bool:
        assert place.point.layer is not None
        looked.append(place.point.layer)
        return place.point.layer >= border

    first_moved([Place(Point("lm", "output", layer), "mean") for layer in range(length)], moved)
    assert len(looked) <= math.log2(length) + 2


def test_no_place_is_found_where_there_is_none() -> None:
    assert first_moved([], lambda place: True) is None


# The weights


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("toy_lm:mock", set()),
        ("openvla_tiny:checkpoint", {"vision.featurizer.model", "vision.fused_featurizer.model", "language_model.lm_head"}),
        (
            "openpi:mock",
            {"action_in_proj", "action_out_proj", "state_proj", "action_time_mlp_in", "action_time_mlp_out", "PaliGemma/llm/embedder", "PaliGemma/img"},
        ),
    ],
)
def test_every_parameter_belongs_to_a_block_where_it_is_one(name: str, beside: set[str]) -> None:
    adapter = model(name)
    found = weight_drift(adapter, adapter)
    blocks = {clause.module for clause in adapter.clauses.values() if clause.side == "output"}
    assert found.keys() - blocks == beside
    assert blocks <= found.keys()
    assert sum(drift.tensors for drift in found.values()) == len(list(adapter.parameters()))
    assert not any(drift.change or drift.differing for drift in found.values())


@pytest.mark.parametrize("layer", [0, 3])
def test_an_edited_tensor_names_its_block(layer: int) -> None:
    name = f"model.layers.{layer}.mlp.down_proj.weight"
    before, after = (subjects.load(subjects.resolve("toy_lm:mock"), Runtime()) for _ in range(2))
    tensor = dict(after.model.named_parameters())[name.removeprefix("model.")]
    tensor.data *= 1.25
    found = weight_drift(before, after)
    (moved,) = [drift for drift in found.values() if drift.differing]
    assert (moved.module, moved.largest, moved.differing) == (f"layers.{layer}", name.removeprefix("model."), 1)
    block = [own.numpy() for own_name, own in before.model.state_dict().items() if own_name.startswith(f"layers.{layer}.")]
    size = np.sqrt(sum((own.astype(np.float64) ** 2).sum() for own in block))
    assert moved.change == pytest.approx(0.25 * float(np.linalg.norm(tensor.detach().numpy() / 1.25)) / size, rel=1e-6)


def test_a_family_that_lists_no_weights_is_compared_without_them(tmp_path: Path) -> None:
    before = model("toy_lm:mock")

    def refusing() -> Any:
        raise UsageError("this family has no weights that can be listed")

    from harness.compare._run import _weights

    mute = SimpleNamespace(adapter=SimpleNamespace(clauses=before.clauses, parameters=refusing))
    assert _weights(mute, mute) == ({}, "this family has no weights that can be listed")  # type: ignore[arg-type]


# Whole comparisons of checkpoints


STREAM = readers.stream("libero_rlds", selection=Selection(steps=3))  # 36 samples of 12 episodes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A copy of the checkpoint with its weights changed, as a side."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def made(name: str, change: Callable[[str, np.ndarray], np.ndarray] = lambda name, tensor: tensor) -> str:
        shutil.copytree(TINY, folder / name)
        weights = {key: change(key, tensor) for key, tensor in load_file(TINY / "model.safetensors").items()}
        save_file({key: np.ascontiguousarray(tensor, np.float32) for key, tensor in weights.items()}, folder / name / "model.safetensors", {"format": "pt"})
        return f"openvla:checkpoint={folder / name}"

    return made


def compared(store: Store, after: str, **options: Any) -> Comparison:
    return compare(f"openvla:checkpoint={TINY}", after, stream=STREAM, store=store, **{"reference": None, "draws": 4, **options})


@pytest.fixture(scope="module")
def edited(store: Store, changed: Callable[..., str]) -> tuple[str, Comparison]:
    """One matrix of block 2 of the language model scaled, and what that gives."""
    side = changed("edited", lambda name, tensor: tensor * 1.3 if name.endswith("layers.2.mlp.down_proj.weight") else tensor)
    return side, compared(store, side)


def test_a_copy_is_identical_and_says_what_that_is_worth(store: Store, changed: Callable[..., str]) -> None:
    found = compared(store, changed("copy")).drift
    assert found.verdict.word == "identical"
    assert "one entry of the store" in found.verdict.reason
    assert found.first is None
    assert not any(point.moved or point.change for point in found.points)
    assert not any(weight.change for weight in found.modules)


def test_the_same_weights_in_bfloat16_are_noise(store: Store, changed: Callable[..., str]) -> None:
    found = compared(store, f"openvla:checkpoint={TINY}@bfloat16").drift
    assert found.verdict.word == "noise"
    assert "bfloat16 weights because the dtypes differ" in found.floors
    assert min(point.change for point in found.points if point.place.startswith("lm.0")) > 1e-4


def test_an_edited_block_is_named_by_features_weights_and_bisection(store: Store, edited: tuple[str, Comparison]) -> None:
    found = edited[1].drift
    assert (found.verdict.word, found.first) == ("drift", "lm.02.output")
    assert {point.place.split()[0] for point in found.points if point.moved} == {"lm.02.output", "lm.03.output", "lm.final_norm"}
    assert found.modules[0].largest == "language_model.model.layers.2.mlp.down_proj.weight"
    assert [name for name, weight in found.weights.items() if weight.change] == ["lm.02.output"]
    quick = compared(store, edited[0], quick=True).drift
    assert quick.quick and quick.first == "lm.02.output"
    assert len(quick.points) == quick.looked == found.looked < found.places == len(found.points)


def test_an_edit_of_one_of_two_vision_stacks_is_found_beside_the_other(store: Store, changed: Callable[..., str]) -> None:
    side = changed("siglip", lambda name, tensor: tensor * 1.3 if "fused_featurizer.blocks.1.mlp.fc2.weight" in name else tensor)
    found = compared(store, side, quick=True).drift
    assert found.first == "siglip.01.output"


def test_other_random_weights_are_a_different_model(store: Store, changed: Callable[..., str]) -> None:
    random = np.random.default_rng(0)
    side = changed("random", lambda name, tensor: random.permutation(tensor.ravel()).reshape(tensor.shape) if tensor.ndim > 1 else tensor)
    found = compared(store, side).drift
    assert found.verdict.word == "different model", found.verdict.reason


def test_a_small_change_of_all_weights_is_drift(store: Store, changed: Callable[..., str]) -> None:
    random = np.random.default_rng(0)
    side = changed("finetuned", lambda name, tensor: tensor + 0.001 * tensor.std() * random.normal(size=tensor.shape))
    found = compared(store, side).drift
    assert found.verdict.word == "drift"
    assert found.first == "dinov2.embedding"
    assert all(point.cka is None or point.cka.value > 0.99 for point in found.points)


# Stored features


PLACES = ("lm.embedding", "lm.00.output", "lm.01.output", "lm.final_norm")


def key(point: str, **changes: Any) -> Key:
    given = {
        "subject": "toy:mock", "weights": "w", "adapter": "a", "capture": "c", "dataset": "d", "samples": "s", "point": point, "pooling": "mean",
        "dtype": "float32", "attention": "eager", "device_class": "cpu", "versions": {"torch": "1"},
    }  # fmt: skip
    return Key(**{**given, **changes})


def kept(store: Store, change: Callable[[np.ndarray], np.ndarray] = lambda x: x, *, from_: int = 0, ids: Any = IDS, **parts: Any) -> str:
    """Four places in the store, those from number `from_` on changed; the side that names them."""
    for number, point in enumerate(PLACES):
        rows = X + np.float32(number) * X[:, ::-1]
        store.write(key(point, **parts), np.ascontiguousarray(change(rows) if number >= from_ else rows, np.float32)[: len(ids)], list(ids))
    return f"store:{key(PLACES[0], **parts).digest}"


def stored(store: Store, after: str) -> Drift:
    return compare(kept(store), after, stream=None, store=store, draws=4).drift


@pytest.mark.parametrize(
    ("change", "from_", "word", "first", "reason"),
    [
        (lambda x: x, 0, "identical", None, "all 4 places are the same numbers"),
        (lambda x: x * (1 + np.float32(1e-6)), 0, "noise", None, "up to 3 are noise"),
        (lambda x: x @ ROTATION, 0, "drift", "lm.embedding", "another basis (rotated)"),
        (lambda x: x[:, UNITS], 1, "drift", "lm.00.output", "another basis (units permuted)"),
        (lambda x: x + VECTOR, 2, "drift", "lm.01.output", "one vector added to every sample explains 1 of"),
        (lambda x: 2 * x, 3, "drift", "lm.final_norm", "one factor on every sample explains 1 of"),
        (lambda x: x[::-1], 0, "different model", "lm.embedding", "the geometry is another one"),
    ],
    ids=["same", "rounding", "rotated", "permuted", "shifted", "scaled", "rows mixed up"],
)
def test_stored_features_that_changed_are_told_with_what_explains_it(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], from_: int, word: str, first: str | None, reason: str
) -> None:
    found = stored(store := Store(tmp_path), kept(store, change, from_=from_, weights="other"))
    assert (found.verdict.word, found.first) == (word, first)
    assert reason in found.verdict.reason
    assert found.weights == {} and found.weights_absent == "only features were compared"
    assert found.probe_absent == "the samples are not here, only their features"


@pytest.mark.parametrize(("dtype", "floor"), list(UNMEASURED.items()))
def test_the_floor_of_stored_features_is_that_of_the_coarser_dtype(tmp_path: Path, dtype: str, floor: float) -> None:
    found = stored(store := Store(tmp_path), kept(store, dtype=dtype))
    assert {point.floor for point in found.points} == {floor}
    assert dtype in found.floors


def test_stored_features_of_other_library_versions_give_the_numbers_of_live_ones(store: Store, edited: tuple[str, Comparison]) -> None:
    live = edited[1].drift
    entries = [entry for entry in store.entries() if entry["parts"]["subject"] == "openvla:checkpoint" and entry["parts"]["dtype"] == "float32"]
    folders = {"a": TINY, "b": Path(edited[0].partition("=")[2])}
    weights = {side: subjects.resolve("openvla:checkpoint", checkpoint=folder).weights.digest for side, folder in folders.items()}
    sides = {}
    for side, digest in weights.items():
        for entry in (entry for entry in entries if entry["parts"]["weights"] == digest):
            named = Key(**entry["parts"])
            older = named if side == "a" else replace(named, versions={**named.versions, "torch": "1.0"})
            rows = store.read(named)
            assert rows is not None
            store.write(older, rows.values, rows.sample_ids)
            sides[side] = f"store:{older.digest[:20]}"
    found = compare(sides["a"], sides["b"], stream=None, store=store, draws=4).drift
    numbers = [{point.place: str((point.change, point.cka, point.shift, point.energy_p)) for point in side.points} for side in (found, live)]
    assert numbers[0] == numbers[1]
    assert (found.verdict.word, found.n) == (live.verdict.word, live.n)


def test_stored_places_stand_in_the_order_of_the_network(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = ["siglip.00.output", "siglip.final_norm", "projector.output", "lm.embedding", "lm.00.output", "lm.10.output"]
    names += ["expert.t00.00.output", "expert.t09.00.output"]
    for name in sorted(names):
        store.write(key(name), X, IDS)
    found = from_store(f"store:{key(names[3]).digest}", store)
    assert [str(place) for place in found.keys] == names


# Refusals


@pytest.mark.parametrize(
    ("options", "message", "words"),
    [
        ({"ids": IDS[:-1]}, "the samples are not the same", "64 and 63 samples at lm.final_norm, 1 on one side only, first 7/7"),
        ({"ids": [*IDS[:-1], "new"]}, "the samples are not the same", "2 on one side only, first 7/7"),
        ({"ids": IDS[::-1]}, "the samples are not the same", "in another order"),
        ({"dataset": "e"}, "different datasets", "store:"),
        ({"samples": "t"}, "different samples", "store:"),
        ({"adapter": "b"}, "not preprocessed and captured alike", "another adapter, other options, another tokenizer"),
        ({"capture": "b"}, "not preprocessed and captured alike", "other pooling code"),
        ({"fault": "pre_norm"}, "a mistake was injected into one of them", "pre_norm"),
        ({"pooling": "last"}, "no extraction point in common", "lm.embedding over last"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_stored_features_that_are_not_comparable_are_refused(tmp_path: Path, options: dict[str, Any], message: str, words: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=f"these two cannot be compared: .*{message}") as refused:
        stored(store, kept(store, **{"weights": "other", **options}))
    assert words in str(refused.value) and refused.value.next is not None


def test_too_few_stored_samples_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="too few samples"):
        compare(kept(store, ids=IDS[:7]), kept(store, ids=IDS[:7], weights="other"), stream=None, store=store)


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        ("toy_lm:mock", "store:0123456789", UsageError, "features of the store are compared with features of the store"),
        ("store:0123456789", "store:012345678", UnknownNameError, "there is no store key named '0123456789'"),
        ("toy_lm:mock", "toy_lm:mock@float64", UsageError, "this is no dtype of weights"),
        ("toy_lm", "toy_lm:mock", UsageError, "which scale of toy_lm"),
        ("toy_ml:mock", "toy_lm:mock", UnknownNameError, "the nearest is 'toy_lm'"),
        ("toy_lm:mock", "t5_small:mock", UsageError, "they are different architectures"),
    ],
    ids=["stored and live", "no such key", "dtype", "no scale", "no such model", "architecture"],
)
def test_sides_that_cannot_be_compared_are_refused(tmp_path: Path, first: str, second: str, error: type[UsageError], message: str) -> None:
    with pytest.raises(error, match=message):
        compare(first, second, stream=readers.stream("libero_instructions"), store=Store(tmp_path))


def test_models_need_samples_and_enough_of_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="models are compared on samples"):
        compare("toy_lm:mock", "toy_lm:mock", stream=None, store=Store(tmp_path))
    with pytest.raises(UsageError, match="too few samples"):
        compare("toy_lm:mock", "toy_lm:mock", stream=readers.stream("libero_rlds", selection=Selection(1, 7)), store=Store(tmp_path))


def test_other_sizes_are_refused() -> None:
    subject = subjects.resolve("toy_lm:mock")
    first = subjects.load(subject, Runtime())
    for change, words in (({"num_hidden_layers": 3}, "no such point at lm.03"), ({"hidden_size": 32}, "width 48 and width 32 at lm.embedding")):
        second = subjects.load(replace(subject, config={**subject.config, **change}), Runtime())
        with pytest.raises(UsageError, match="they have different sizes") as refused:
            require_same_kind(first, second)
        assert words in str(refused.value)


def test_a_model_without_weights_is_refused() -> None:
    shapes = SimpleNamespace(subject=replace(subjects.resolve("toy_lm:mock"), weights=subjects.resolve("openvla:abstract").weights))
    with pytest.raises(UsageError, match="a model without weights has no features"):
        require_same_kind(shapes, shapes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [("openvla_tiny:checkpoint", {"prompt": "v01"}, "input_ids"), ("robovlms_tiny:checkpoint", {"cameras": ["wrist", "primary"]}, "input ")],
    ids=["prompt", "cameras"],
)
def test_an_adapter_with_other_options_is_refused(family: str, options: dict[str, Any], words: str) -> None:
    subject = subjects.resolve(family)
    samples = list(STREAM)[:12]
    first, second = (subjects.load(own, Runtime()) for own in (subject, replace(subject, options={**subject.options, **options})))
    require_same_inputs(first, first, samples)
    with pytest.raises(UsageError, match="their preprocessing differs") as refused:
        require_same_inputs(first, second, samples)
    assert words in str(refused.value)


def test_another_normalisation_of_pictures_is_refused(tmp_path: Path, store: Store) -> None:
    shutil.copytree(TINY, tmp_path / "other")
    file = tmp_path / "other/preprocessor_config.json"
    config = json.loads(file.read_text())
    params = [{**one, "mean": [0.0, 0.0, 0.0]} for one in config["tvf_normalize_params"]]
    file.write_text(json.dumps({**config, "tvf_normalize_params": params, "means": [[0.0] * 3] * 2}))
    with pytest.raises(UsageError, match="their preprocessing differs"):
        compared(store, f"openvla:checkpoint={tmp_path / 'other'}")


def test_one_other_token_in_one_instruction_is_refused() -> None:
    """Token ids are names, not sizes: the next one is another word, however large the vocabulary."""

    def adapter(*, shifted: bool) -> Any:
        def encode(samples: list[Sample]) -> Any:
            ids = np.array([[40_000, 40_001 if shifted and sample.instruction == "task 29" else 40_000] for sample in samples])
            return SimpleNamespace(inputs={"input_ids": ids, "steps": np.array(10)})  # an input may be one number for all samples

        return SimpleNamespace(encode=encode)

    samples = [Sample(f"{number}", f"task {number // 10}") for number in range(300)]
    require_same_inputs(adapter(shifted=False), adapter(shifted=False), samples)
    with pytest.raises(UsageError, match="their preprocessing differs") as refused:
        require_same_inputs(adapter(shifted=False), adapter(shifted=True), samples)
    assert "input input_ids of sample '290' differs by 1" in str(refused.value)


# Reading, files and commands


def test_every_place_of_both_sides_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reads = Store(tmp_path), []
    sides = kept(store), kept(store, lambda x: x + VECTOR, from_=1, weights="other")
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, key: reads.append(key.digest) or read(self, key))
    write(compare(*sides, stream=None, store=store, draws=4), tmp_path / "report")
    assert len(reads) == len(set(reads)) == 2 * len(PLACES)


class Links(HTMLParser):
    """Tags that are open, and every address a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(edited: tuple[str, Comparison], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(edited[1], tmp_path_factory.mktemp("report"))


def test_the_page_is_whole_and_loads_nothing(page: Path) -> None:
    text, links = page.read_text(encoding="utf-8"), Links()
    links.feed(text)
    assert links.open == []
    assert links.addresses and all(address.startswith("data:image/") for address in links.addresses)
    assert not re.search(r"https?://|url\(", text)
    assert text.count("data:image/jpeg") == 5  # the samples that moved most
    assert text.count("data:image/png") == 4
    for words in ("lm.02.output", "drift", "language_model.model.layers.2.mlp.down_proj.weight", "train/0000"):
        assert words in text


def test_the_json_holds_every_number_and_no_nan(page: Path, edited: tuple[str, Comparison]) -> None:
    def refused(name: str) -> None:
        raise AssertionError(name)

    found = json.loads((page.parent / "compare.json").read_text(encoding="utf-8"), parse_constant=refused)
    drift = edited[1].drift
    assert found["verdict"] == {"word": "drift", "reason": drift.verdict.reason}
    assert [point["change"] for point in found["points"]] == [point.change for point in drift.points]
    told = found["points"][-1]
    assert told["cka"].keys() >= {"value", "low", "high"} and told["moved"] and told["pattern"].keys() == {"by_shift", "by_scale", "basis"}


def test_infinity_is_written_as_a_word(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for weights, value in (("w", 0.0), ("other", 1.0)):
        store.write(key("lm.embedding", weights=weights), np.full((N, 4), value, np.float32), IDS)
        store.write(key("lm.00.output", weights=weights), X + np.float32(value), IDS)
    found = compare(*(f"store:{key('lm.embedding', weights=weights).digest}" for weights in ("w", "other")), stream=None, store=store, draws=4)
    write(found, tmp_path)
    assert as_json(found.drift)["points"][0]["change"] == "inf"
    assert found.furthest.place == "lm.00.output"  # what is infinitely far has no distribution worth showing
    assert "moved furthest" in (tmp_path / "compare.md").read_text(encoding="utf-8")


def test_the_markdown_has_a_row_for_every_place(page: Path, edited: tuple[str, Comparison]) -> None:
    lines = (page.parent / "compare.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith(("| dinov2", "| siglip", "| projector", "| text", "| lm.")) for line in lines) == edited[1].drift.places


@pytest.mark.parametrize(("word", "code"), [("identical", 0), ("drift", 1)])
def test_the_command_ends_with_the_verdict(tmp_path: Path, word: str, code: int) -> None:
    store = Store(tmp_path / "store")
    sides = kept(store), kept(store, (lambda x: x) if word == "identical" else (lambda x: x + VECTOR), weights="other")
    found = CliRunner().invoke(app, [_compare.compare.__name__, *sides, "--store", str(store.root), "--output", str(tmp_path / "report"), "--draws", "2"])
    assert found.exit_code == code, found.output
    assert f"{word}: " in found.output and (tmp_path / "report/index.html").is_file()


COMMAND = ("-c", "from harness.cli import main; main()")
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-q")


def run(*arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as from a terminal in the repository's root."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HARNESS", "COV"))}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "HARNESS_HOME": str(home)}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("word", "code"), [("identical", 0), ("drift", 1)])
def test_the_checks_are_green_for_a_rerun_and_red_for_a_drifted_model(tmp_path: Path, word: str, code: int) -> None:
    store = Store(tmp_path / "store")
    sides = kept(store), kept(store, (lambda x: x) if word == "identical" else (lambda x: x @ ROTATION + VECTOR), from_=2, weights="other")
    whole = word == "identical"  # else this question's file alone and no report, which saves seconds
    arguments = ("checks/", "--report", tmp_path / "report") if whole else ("checks/test_compare.py", "--report", "none")
    found = run(*PYTEST, *arguments, "--compare", *sides, "--store", store.root, home=tmp_path)
    assert found.returncode == code, found.stdout + found.stderr
    assert (tmp_path / "report/compare/index.html").is_file() == whole
    if whole:
        assert re.search(r"3 passed, 1 skipped, \d{3,} deselected", found.stdout), found.stdout[-500:]
    else:
        assert re.search(r"1 failed, 2 passed, 1 skipped", found.stdout), found.stdout[-500:]
        assert re.search(r"place +change +floors +CKA", found.stdout) and "lm.01.output" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--compare", "store:ab12", "store:cd34", "--fault", "pre_norm"], 4, "--fault with --compare would keep the mistake's features"),
        (["--compare", "toy_lm:mock", "toy_lm:mock"], 4, "--compare runs models on samples: add --dataset NAME"),
        (["--dataset", "libero_rlds"], 4, "--dataset names the samples of --compare BEFORE AFTER"),
        (["--collect-only", "checks/test_compare.py"], 5, "4 deselected"),
    ],
    ids=["fault", "no samples", "samples alone", "not asked"],
)
def test_options_that_do_not_fit_a_comparison_are_refused(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    found = run(*PYTEST, *arguments, *([] if "--collect-only" in arguments else ["checks/test_compare.py"]), home=tmp_path)
    assert found.returncode == code, found.stdout + found.stderr
    assert words in found.stdout + found.stderr


def test_a_refusal_of_the_command_is_a_usage_error(tmp_path: Path) -> None:
    found = run(*COMMAND, "compare", "toy_lm:mock", "store:ab12", "--store", tmp_path, home=tmp_path)
    assert found.returncode == 2, found.stdout + found.stderr
    assert "features of the store are compared with features of the store" in found.stderr
