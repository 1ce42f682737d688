"""Extraction: the rows are those of one sample at a time, in the dataset's order, computed once for everybody."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import readers, subjects
from harness.adapters import Adapter
from harness.errors import UnknownNameError
from harness.extract import _keys as extraction
from harness.extract import extract, feature_key, pooled
from harness.readers import Dataset
from harness.store import Key, Store
from harness.types import Point, Runtime, Subject

ROOT = Path(__file__).resolve().parent.parent
POINTS = [Point.parse(name) for name in ("lm.embedding", "lm.01.output", "lm.final_norm")]
RELATIVE = 1e-5  # of the largest entry: kernels for other batch shapes add up in another order


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    yield


@pytest.fixture(scope="module")
def toy() -> Adapter:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return subjects.load(subjects.resolve("toy_lm:mock"), Runtime())


@pytest.fixture
def subject() -> Subject:
    return subjects.resolve("toy_lm:mock")


@pytest.fixture
def dataset() -> Dataset:
    """Twenty instructions whose lengths are in no order."""
    whole = readers.read("libero_instructions")
    samples = whole.samples[:20]
    lengths = [len(sample.instruction) for sample in samples]
    assert lengths != sorted(lengths)
    return Dataset("twenty", "digest of twenty", samples)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "model": lambda a: {"subject": replace(a["subject"], model="toy_ml")},
    "weights": lambda a: {"subject": subjects.resolve("toy_lm:mock", seed=1)},
    "family": lambda a: {"subject": replace(a["subject"], family="vision")},
    "adapter options": lambda a: {"subject": replace(a["subject"], options={"prompt": "v01"})},
    "dtype": lambda a: {"runtime": Runtime(dtype="bfloat16")},
    "attention": lambda a: {"runtime": Runtime(attention="sdpa")},
    "dataset": lambda a: {"dataset": a["dataset"]._replace(digest="another")},
    "a sample less": lambda a: {"dataset": a["dataset"]._replace(samples=a["dataset"].samples[:-1])},
    "order of samples": lambda a: {"dataset": a["dataset"]._replace(samples=a["dataset"].samples[::-1])},
    "layer": lambda a: {"point": Point("lm", "output", 2)},
    "side": lambda a: {"point": Point("lm", "input", 1)},
    "pooling": lambda a: {"pooling": "last"},
    "span": lambda a: {"pooling": "mean:text"},
    "fault": lambda a: {"fault": "pre_norm"},
}


def key(**arguments: Any) -> Key:
    return feature_key(**arguments)


@pytest.mark.parametrize("part", CHANGES)
def test_every_part_of_a_request_changes_the_key(part: str, subject: Subject, dataset: Dataset) -> None:
    request = {"subject": subject, "runtime": Runtime(), "dataset": dataset, "point": Point("lm", "output", 1), "pooling": "mean"}
    assert key(**request).digest == key(**request).digest
    assert key(**{**request, **CHANGES[part](request)}).digest != key(**request).digest


def test_a_tokenizer_of_its_own_changes_the_key(subject: Subject, dataset: Dataset, tmp_path: Path) -> None:
    digests = {key(subject=subject, runtime=Runtime(), dataset=dataset, point=POINTS[0], pooling="mean").digest}
    for content in ("{}", "{ }"):
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
        digests.add(key(subject=replace(subject, tokenizer=tmp_path), runtime=Runtime(), dataset=dataset, point=POINTS[0], pooling="mean").digest)
    assert len(digests) == 3


def test_a_library_s_version_and_the_pooling_code_change_the_key(subject: Subject, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"subject": subject, "runtime": Runtime(), "dataset": dataset, "point": POINTS[0], "pooling": "mean"}
    before = key(**request)
    assert before.versions["torch"] != "absent"
    monkeypatch.setattr(extraction, "_versions", lambda: {**before.versions, "torch": "0.0"})
    assert key(**request).digest != before.digest
    monkeypatch.setattr(extraction, "_versions", lambda: before.versions)
    assert key(**request).digest == before.digest
    monkeypatch.setattr(extraction, "_capture_code", lambda: "other code")
    assert key(**request).digest != before.digest


def alone(adapter: Adapter, dataset: Dataset, point: Point, pooling: str) -> np.ndarray:
    """The slow way: one unpadded sample at a time, pooled by hand."""
    rows = []
    for sample in dataset.samples:
        (values,) = adapter.capture(adapter.encode([sample]), [point])[point].double().numpy()
        rows.append(values.mean(0) if pooling == "mean" else values[{"last": -1, "first": 0}[pooling]])
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
def test_rows_are_those_of_each_sample_alone_in_the_dataset_s_order(toy: Adapter, dataset: Dataset, pooling: str, batch_size: int) -> None:
    found = pooled(toy, dataset.samples, POINTS, pooling=pooling, batch_size=batch_size)
    for point in POINTS:
        assert found[point].dtype == np.float32
        expected = alone(toy, dataset, point, pooling)
        np.testing.assert_allclose(found[point], expected, rtol=0, atol=RELATIVE * np.abs(expected).max())


def test_two_rows_differ_by_far_more_than_the_tolerance_above(toy: Adapter, dataset: Dataset) -> None:
    rows = pooled(toy, dataset.samples, POINTS)[POINTS[1]]
    gaps = np.abs(rows[:, None] - rows[None]).max(2) + 1e9 * np.eye(len(rows))
    assert gaps.min() > 1000 * RELATIVE * np.abs(rows).max()


class Counting:
    """A factory of `adapter` that counts its calls and the batches that went through it."""

    def __init__(self, adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.adapter, self.calls, self.batches = adapter, 0, Counter()
        capture = type(adapter).capture

        def counted(adapter: Adapter, batch: Any, points: Any, keep: Any = None) -> Any:
            points = list(points)
            self.batches[tuple(map(str, points))] += 1
            return capture(adapter, batch, points, keep)

        monkeypatch.setattr(type(adapter), "capture", counted)

    def __call__(self) -> Adapter:
        self.calls += 1
        return self.adapter


@pytest.fixture
def factory(toy: Adapter, monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(toy, monkeypatch)


def test_all_missing_points_are_extracted_in_one_pass_and_what_is_there_is_not(subject: Subject, factory: Counting, dataset: Dataset, store: Store) -> None:
    def taken(points: list[Point], **options: Any) -> Any:
        return extract(subject, factory, dataset, points, store=store, runtime=Runtime(), batch_size=8, **options)

    first = taken(POINTS[:2])
    assert factory.calls == 1
    assert factory.batches == {("lm.embedding", "lm.01.output"): 3}
    assert list(first) == POINTS[:2]
    assert taken(POINTS[:2])[POINTS[0]].values.tobytes() == first[POINTS[0]].values.tobytes()
    assert factory.calls == 1
    more = taken(POINTS[::-1])
    assert factory.calls == 2
    assert factory.batches == {("lm.embedding", "lm.01.output"): 3, ("lm.final_norm",): 3}
    assert list(more) == POINTS[::-1]
    assert more[POINTS[1]].key == first[POINTS[1]].key
    assert Counter(event["event"] for event in store.events()) == {"written": 3}
    assert all(features.sample_ids == tuple(sample.id for sample in dataset.samples) for features in more.values())
    taken(POINTS[:1], fault="pre_norm")
    assert factory.calls == 3  # a fault never reads what was taken without it


def test_no_point_needs_no_adapter(subject: Subject, factory: Counting, dataset: Dataset, store: Store) -> None:
    assert extract(subject, factory, dataset, [], store=store, runtime=Runtime()) == {}
    assert factory.calls == 0


def test_a_damaged_entry_is_extracted_again_with_a_warning(subject: Subject, factory: Counting, dataset: Dataset, store: Store) -> None:
    first = extract(subject, factory, dataset, POINTS[:1], store=store, runtime=Runtime())[POINTS[0]]
    (shard,) = store.root.glob("??/*/shard-*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.warns(UserWarning, match="wrong size"):
        again = extract(subject, factory, dataset, POINTS[:1], store=store, runtime=Runtime())[POINTS[0]]
    assert factory.calls == 2
    assert again.values.tobytes() == first.values.tobytes()


def test_an_unknown_point_stores_nothing(subject: Subject, factory: Counting, dataset: Dataset, store: Store) -> None:
    with pytest.raises(UnknownNameError, match="nearest is 'lm.01.output'"):
        extract(subject, factory, dataset, [POINTS[0], Point("lm", "outputs", 1)], store=store, runtime=Runtime())
    assert store.entries() == []


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_progress_is_told_to_the_end(subject: Subject, factory: Counting, dataset: Dataset, store: Store, batch_size: int) -> None:
    told: list[tuple[int, int, str]] = []
    extract(subject, factory, dataset, POINTS[:1], store=store, runtime=Runtime(), batch_size=batch_size, progress=lambda *each: told.append(each))
    assert [done for done, _, _ in told] == [*range(batch_size, 20, batch_size), 20]
    assert {(total, label) for _, total, label in told} == {(20, "toy_lm:mock")}


def _extracting(store: Path, start: Any, results: Any) -> None:
    """In another process: extracts once everybody is ready, and says whether it needed the adapter."""
    subject, called = subjects.resolve("toy_lm:mock"), []
    adapter = subjects.load(subject, Runtime())

    def late() -> Adapter:
        called.append(True)
        time.sleep(0.5)  # long enough for the other to arrive at the lock
        return adapter

    start.wait()
    found = extract(subject, late, readers.read("photos"), POINTS, store=Store(store), runtime=Runtime())
    results.put((len(called), {str(point): features.values.tobytes() for point, features in found.items()}))


def test_two_processes_that_want_the_same_extract_it_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(2), spawn.Queue()
    workers = [spawn.Process(target=_extracting, args=(tmp_path / "store", start, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    told = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(calls for calls, _ in told) == [0, 1]
    assert told[0][1] == told[1][1]
    events = Store(tmp_path / "store").events()
    assert Counter(event["event"] for event in events) == {"written": len(POINTS)}
    assert len({event["pid"] for event in events}) == 1
