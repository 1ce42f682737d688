"""The store gives back what was put in or nothing: whatever happens to its files or its writers."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis.extra import numpy as hnp

from harness import storage as storage_module
from harness import store as store_module
from harness.checkpoints import canonical_digest
from harness.errors import DamagedError, UnknownNameError, UsageError
from harness.storage import Storage
from harness.store import Key, Store, StoreWarning

ROOT = Path(__file__).resolve().parent.parent
KEY = Key("toy:mock", "w0", "a0", "c0", "d0", "s0", "lm.00.output", "mean", "float32", "eager", "cpu", {"torch": "2.13", "numpy": "2.4"})
CHANGES: Mapping[str, object] = {
    "subject": "other:mock",
    "weights": "w1",
    "adapter": "a1",
    "capture": "c1",
    "dataset": "d1",
    "samples": "s1",
    "point": "lm.01.output",
    "pooling": "last",
    "dtype": "bfloat16",
    "attention": "sdpa",
    "device_class": "nvidia-h100",
    "versions": {"torch": "2.14", "numpy": "2.4"},
    "fault": "reversed_blocks",
}


def rows(n: int = 5, d: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def ids(n: int = 5) -> list[str]:
    return [f"sample-{index}" for index in range(n)]


def sidecar(store: Store, key: Key = KEY) -> Path:
    return store.root / key.digest[:2] / key.digest / "entry.json"


def shards(store: Store, key: Key = KEY) -> list[Path]:
    return sorted(sidecar(store, key).parent.glob("shard-*.safetensors"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def sharded(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that holds the rows of KEY in three shards."""
    monkeypatch.setattr(store_module, "SHARD_BYTES", 2 * 3 * 4)
    store.write(KEY, rows(), ids())
    assert len(shards(store)) == 3
    return store


@settings(deadline=None, max_examples=30)
@example(values=np.array([[0x80000000, 0x7FC00001, 0xFF800000, 1]], np.uint32))  # -0.0, a NaN with a payload, -inf, a subnormal
@given(values=hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_a_round_trip_is_bitwise_for_every_float_there_is(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    written = store.write(KEY, values.view(np.float32), ids(len(values)))
    found = store.read(KEY)
    assert found is not None
    assert found.values.tobytes() == values.tobytes()
    assert found.values.shape == values.shape
    assert (found.sample_ids, found.key) == (written.sample_ids, written.key) == (tuple(ids(len(values))), KEY.digest)


@pytest.mark.parametrize(
    "values",
    [rows()[::2], rows().T.copy().T, rows(6, 8)[:, ::3], np.zeros((0, 4), np.float32), np.ones((1, 1), np.float32)],
    ids=["every other row", "column order", "every third column", "no rows", "one number"],
)
@pytest.mark.parametrize("shard_bytes", [4, 24, 2**20])
def test_layout_and_sharding_do_not_change_what_comes_back(store: Store, monkeypatch: pytest.MonkeyPatch, values: np.ndarray, shard_bytes: int) -> None:
    monkeypatch.setattr(store_module, "SHARD_BYTES", shard_bytes)
    store.write(KEY, values, ids(len(values)))
    found = store.read(KEY)
    assert found is not None
    assert np.array_equal(found.values, values)
    assert found.values.shape == values.shape


@pytest.mark.parametrize(("shard_bytes", "count"), [(1, 5), (12, 5), (24, 3), (59, 2), (60, 1), (2**20, 1)])
def test_rows_are_cut_into_shards_of_at_most_the_limit(store: Store, monkeypatch: pytest.MonkeyPatch, shard_bytes: int, count: int) -> None:
    monkeypatch.setattr(store_module, "SHARD_BYTES", shard_bytes)
    store.write(KEY, rows(), ids())
    assert len(shards(store)) == count
    assert len(json.loads(sidecar(store).read_text())["shards"]) == count


def test_what_was_never_written_is_none_without_a_warning(store: Store, recwarn: pytest.WarningsRecorder) -> None:
    assert store.read(KEY) is None
    assert (store.entries(), store.events(), store.verify()) == ([], [], [])
    assert not recwarn.list


def test_a_reader_in_another_store_object_finds_the_entry(store: Store) -> None:
    store.write(KEY, rows(), ids())
    assert Store(store.root).read(KEY) is not None


@pytest.mark.parametrize("part", CHANGES)
def test_every_part_of_the_key_leads_to_another_entry(store: Store, part: str) -> None:
    store.write(KEY, rows(), ids())
    changed = replace(KEY, **{part: CHANGES[part]})  # type: ignore[arg-type]
    assert changed.digest != KEY.digest
    assert store.read(changed) is None


def test_the_table_of_changes_covers_the_key() -> None:
    assert set(CHANGES) == {field.name for field in fields(Key)}


def test_the_order_of_versions_does_not_change_the_key() -> None:
    assert replace(KEY, versions=dict(reversed(KEY.versions.items()))).digest == KEY.digest


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def forge(store: Store, **changed: object) -> None:
    """A sidecar changed by somebody who did not know of its digest."""
    sidecar(store).write_text(json.dumps({**json.loads(sidecar(store).read_text()), **changed}))


def reseal(store: Store, **changed: object) -> None:
    """A sidecar changed by somebody who did."""
    entry = {**json.loads(sidecar(store).read_text()), **changed}
    del entry["blake3"]
    sidecar(store).write_text(json.dumps({**entry, "blake3": canonical_digest(entry)}))


def moved_here(store: Store) -> None:
    other = replace(KEY, subject="other:mock")
    store.write(other, rows(seed=1), ids())
    shutil.rmtree(sidecar(store).parent)
    shutil.copytree(sidecar(store, other).parent, sidecar(store).parent)
    shutil.rmtree(sidecar(store, other).parent)


DAMAGES: Mapping[str, tuple[Callable[[Store], object], str]] = {
    "a truncated shard": (lambda store: os.truncate(shards(store)[1], 40), r"wrong size(.|\n)*shard-0001(.|\n)*40 bytes"),
    "a padded shard": (lambda store: shards(store)[1].open("ab").write(b"\0"), r"wrong size(.|\n)*shard-0001"),
    "an empty shard": (lambda store: os.truncate(shards(store)[0], 0), r"wrong size(.|\n)*shard-0000(.|\n)*0 bytes"),
    "an altered first byte": (lambda store: flip(shards(store)[0], 0), r"was altered(.|\n)*shard-0000(.|\n)*blake3"),
    "an altered last byte": (lambda store: flip(shards(store)[2], -1), r"was altered(.|\n)*shard-0002(.|\n)*blake3"),
    "a missing shard": (lambda store: shards(store)[2].unlink(), r"is missing(.|\n)*shard-0002"),
    "exchanged shards": (lambda store: shards(store)[0].replace(shards(store)[1]), r"is missing(.|\n)*shard-0000"),
    "an altered subject": (lambda store: forge(store, parts={**asdict(KEY), "subject": "x"}), r"sidecar was altered(.|\n)*field blake3"),
    "an altered shape": (lambda store: forge(store, shape=[1, 15]), r"sidecar was altered(.|\n)*field blake3"),
    "a resealed shape": (lambda store: reseal(store, shape=[1, 15]), r"shape disagrees(.|\n)*field shape(.|\n)*\[5, 3\]"),
    "an added field": (lambda store: forge(store, note="x"), r"sidecar was altered"),
    "no digest": (lambda store: sidecar(store).write_text('{"key": "x"}'), r"sidecar is not readable(.|\n)*blake3"),
    "garbage": (lambda store: sidecar(store).write_bytes(b"\xff\xfe\x00{{{"), r"sidecar is not readable"),
    "an empty sidecar": (lambda store: sidecar(store).write_text(""), r"sidecar is not readable"),
    "half a sidecar": (lambda store: os.truncate(sidecar(store), 100), r"sidecar is not readable"),
    "a string as sidecar": (lambda store: sidecar(store).write_text('"text"'), r"sidecar is not readable"),
    "another key's entry": (moved_here, r"stands under another key(.|\n)*field key"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_told_logged_and_healed_by_rewriting(sharded: Store, damage: str) -> None:
    spoil, match = DAMAGES[damage]
    spoil(sharded)
    (wrong,) = sharded.verify()
    assert re.search(match, str(wrong))
    with pytest.warns(StoreWarning, match=match):
        assert sharded.read(KEY) is None
    damaged = [event for event in sharded.events() if event["event"] == "damaged"]
    assert [event["key"] for event in damaged] == [KEY.digest]
    assert damaged[0]["reason"] and damaged[0]["pid"] == os.getpid()
    sharded.write(KEY, rows(), ids())
    found = sharded.read(KEY)
    assert found is not None
    assert np.array_equal(found.values, rows())
    assert sharded.verify() == []


def test_a_damaged_entry_stays_damaged_until_it_is_written_anew(sharded: Store) -> None:
    flip(shards(sharded)[0], -1)
    for _ in range(2):
        with pytest.warns(StoreWarning, match="altered"):
            assert sharded.read(KEY) is None


@pytest.mark.parametrize("content", ["[]", '{"blake3": 5}', "[1, 2]", '{"blake3": null}'])
def test_a_sidecar_of_another_json_type_is_damaged(sharded: Store, content: str) -> None:
    sidecar(sharded).write_text(content)
    with pytest.warns(StoreWarning, match="sidecar"):
        assert sharded.read(KEY) is None


def test_a_torn_event_line_does_not_hide_the_others(sharded: Store) -> None:
    with (sharded.root / "events.jsonl").open("a") as file:
        file.write('{"event": "wri')
    sharded.write(replace(KEY, pooling="last"), rows(), ids())
    assert len(sharded.events()) >= 1


def test_listing_leaves_a_damaged_sidecar_out_and_says_so(sharded: Store) -> None:
    other = sharded.write(replace(KEY, pooling="last"), rows(), ids()).key
    forge(sharded, shape=[0, 0])
    with pytest.warns(StoreWarning, match="left out here"):
        assert [entry["key"] for entry in sharded.entries()] == [other]


def test_verify_lists_each_damaged_entry_and_no_other(sharded: Store) -> None:
    for pooling in ("last", "first", "mean:text"):
        sharded.write(replace(KEY, pooling=pooling), rows(), ids())
    assert sharded.verify() == []
    flip(shards(sharded)[1], -1)
    shards(sharded, replace(KEY, pooling="last"))[0].unlink()
    wrong = sharded.verify()
    assert sorted(error.what for error in wrong) == ["a shard of a store entry is missing", "a shard of a store entry was altered"]
    assert all(isinstance(error, DamagedError) for error in wrong)
    assert len(list(sharded.root.glob("??/*/entry.json"))) == 4


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survives", [0, 1, 2, 3])
def test_a_writer_that_dies_before_the_sidecar_leaves_no_entry(store: Store, monkeypatch: pytest.MonkeyPatch, survives: int) -> None:
    monkeypatch.setattr(store_module, "SHARD_BYTES", 2 * 3 * 4)
    finish, done = storage_module._fsync, []

    def fsync(path: Path) -> None:
        if path.is_file():
            if len(done) == survives:
                raise Killed
            done.append(path)
        finish(path)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage_module, "_fsync", fsync)
        store.write(KEY, rows(), ids())
    assert len(shards(store)) == survives
    assert store.read(KEY) is None
    assert store.events() == []
    store.write(KEY, rows(), ids())
    assert store.read(KEY) is not None


def test_a_rewriter_that_dies_halfway_never_mixes_old_and_new(sharded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = storage_module._Local.write

    def no_sidecar(self: Storage, name: str, data: bytes) -> None:
        if name.endswith("entry.json"):
            raise Killed
        write(self, name, data)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage_module._Local, "write", no_sidecar)
        sharded.write(KEY, rows(seed=1), ids())
    with pytest.warns(StoreWarning, match="was altered"):
        assert sharded.read(KEY) is None


WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from harness import store
from harness.store import Key, Store
store.SHARD_BYTES = 64 * 4 * 8
root, seeds = Store(Path(sys.argv[1])), itertools.count(int(sys.argv[2]) * 1000)
print("ready", flush=True)
for seed in seeds:
    key = Key("toy:mock", str(seed % 7), "a", "c", "d", "s", "lm.00.output", "mean", "float32", "eager", "cpu", {})
    values = np.full((64, 64), seed, np.float32)
    root.write(key, values, [str(index) for index in range(64)])
"""


def test_a_writer_killed_at_any_moment_leaves_whole_entries_only(store: Store) -> None:
    for attempt in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.root), str(attempt)], stdout=subprocess.PIPE, cwd=ROOT)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.03 + 0.017 * attempt)
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        for entry in [json.loads(path.read_text()) for path in store.root.glob("??/*/entry.json")]:
            found = readable(store, Key(**entry["parts"]))
            assert found is None or (found.shape == (64, 64) and len(np.unique(found)) == 1)
    assert len(store.entries()) > 0


def readable(store: Store, key: Key) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        found = store.read(key)
    return None if found is None else found.values


def extract_once(root: str, start: object) -> None:
    """What extract.extract does: read, else lock, read again, compute and write."""
    store = Store(Path(root))
    start.wait()  # type: ignore[attr-defined]
    if store.read(KEY) is None:
        with store.lock("shared"):
            if store.read(KEY) is None:
                time.sleep(0.2)
                store.write(KEY, rows(), ids())


def test_two_processes_with_the_lock_compute_once(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=extract_once, args=(str(store.root), start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [event["event"] for event in store.events()] == ["written"]
    assert store.read(KEY) is not None


def test_an_entry_is_explained_as_the_first_of_its_subject_and_point(store: Store) -> None:
    store.write(replace(KEY, subject="other:mock"), rows(), ids())
    store.write(replace(KEY, point="lm.07.output"), rows(), ids())
    key = store.write(KEY, rows(), ids()).key
    text = store.explain(key[:12])
    assert text.splitlines()[0] == f"{key}  toy:mock  lm.00.output  mean  (5, 3)"
    assert "computed for the first time: no older entry has this subject and point" in text


@pytest.mark.parametrize("part", sorted(set(CHANGES) - {"subject", "point"}))
def test_an_entry_is_explained_by_the_part_that_changed(store: Store, part: str) -> None:
    old = store.write(KEY, rows(), ids()).key
    new = store.write(replace(KEY, **{part: CHANGES[part]}), rows(), ids()).key  # type: ignore[arg-type]
    name, before, after = ("version of torch", "2.13", "2.14") if part == "versions" else (part, getattr(KEY, part), CHANGES[part])
    lines = store.explain(new).splitlines()
    assert lines[1] == f"recomputed although {old[:12]} existed, because of the key these parts changed:"
    assert [line.split() for line in lines[2:]] == [[*name.split(), str(before), "->", str(after)]]


def test_the_nearest_older_entry_explains_a_change(store: Store) -> None:
    far = store.write(replace(KEY, weights="w1", dataset="d1"), rows(), ids()).key
    near = store.write(replace(KEY, weights="w1"), rows(), ids()).key
    text = store.explain(store.write(KEY, rows(), ids()).key)
    assert near[:12] in text and far[:12] not in text
    assert "weights" in text and "dataset" not in text


def test_an_added_library_is_named_in_the_explanation(store: Store) -> None:
    store.write(KEY, rows(), ids())
    text = store.explain(store.write(replace(KEY, versions={**KEY.versions, "jax": "0.10"}), rows(), ids()).key)
    assert [line.split() for line in text.splitlines()[2:]] == [["version", "of", "jax", "None", "->", "0.10"]]


def test_an_entry_rewritten_after_damage_is_explained_by_it(sharded: Store) -> None:
    flip(shards(sharded)[0], -1)
    with pytest.warns(StoreWarning):
        sharded.read(KEY)
    sharded.write(KEY, rows(), ids())
    assert "recomputed because its files were unusable: a shard of a store entry was altered" in sharded.explain(KEY.digest)


def test_a_prefix_finds_its_entry(store: Store) -> None:
    store.write(KEY, rows(), ids())
    assert store.find(KEY.digest[:6])["shape"] == [5, 3]


def test_an_ambiguous_prefix_asks_for_more_digits(store: Store) -> None:
    written = [store.write(replace(KEY, weights=str(number)), rows(), ids()).key for number in range(17)]
    shared = next(key[0] for key in written if sum(other[0] == key[0] for other in written) > 1)
    with pytest.raises(UsageError, match=rf"'{shared}' is the start of \d+ keys(.|\n)*more digits") as caught:
        store.find(shared)
    assert not isinstance(caught.value, UnknownNameError)


def test_an_unknown_prefix_suggests_the_nearest_key(store: Store) -> None:
    store.write(KEY, rows(), ids())
    wrong = f"{KEY.digest[:6]}zz"
    with pytest.raises(UnknownNameError, match=rf"no store key named '{wrong}'; the nearest is '{KEY.digest}'"):
        store.explain(wrong)


@pytest.mark.parametrize(
    ("values", "sample_ids", "match"),
    [
        (rows().astype(np.float64), ids(), r"float32 rows, one per sample(.|\n)*float64 \(5, 3\)"),
        (rows().astype(np.float16), ids(), r"float16"),
        (rows().astype(np.int32), ids(), r"int32"),
        (rows()[0], ids(3), r"float32 \(3,\) for 3 samples"),
        (rows()[None], ids(1), r"\(1, 5, 3\) for 1 samples"),
        (rows(), ids(4), r"\(5, 3\) for 4 samples"),
        (rows(), [], r"\(5, 3\) for 0 samples"),
        (rows(), ["a", "b", "a", "a", "c"], r"sample ids repeat(.|\n)*toy:mock(.|\n)*2 duplicates"),
    ],
)
def test_rows_that_are_not_features_are_refused_and_nothing_is_written(store: Store, values: np.ndarray, sample_ids: list[str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        store.write(KEY, values, sample_ids)
    assert not store.root.exists()
