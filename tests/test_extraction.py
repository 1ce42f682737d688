"""An extraction of any size: nothing is lost, nothing is taken twice, and an interruption leaves no trace in what is made."""

from __future__ import annotations

import errno
import random
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import _forked
import numpy as np
import pytest
from _episodes import Episodes, extracted, interrupted, job, stream, tree

from harness import storage
from harness.engines.local import local
from harness.errors import DamagedError, MissingError, UsageError
from harness.extract import pooled, run
from harness.pictures import Pictures
from harness.pipeline import blocks
from harness.readers import Selection
from harness.shards import unpacked
from harness.store import Store, StoreWarning
from harness.types import Broken, Point, Sample

STEPS = sum(3 + episode % 4 for episode in range(8))
LAST = Point("lm", "output", 3)


def rows(folder: Path, key: str) -> Any:
    (entry,) = [entry for entry in Store(folder).entries() if entry["key"] == key]
    shards = [unpacked((folder / key[:2] / key / shard["name"]).read_bytes(), "here") for shard in entry["shards"]]
    return np.concatenate([shard.values for shard in shards]), [identity for shard in shards for identity in shard.sample_ids]


def test_rows_are_those_of_each_sample_in_the_dataset_s_order(tmp_path: Path) -> None:
    source = stream(Episodes())
    summary = extracted("toy_lm:mock", source, tmp_path)
    values, ids = rows(tmp_path, summary.made["lm.03.output"])
    assert (summary.rows, summary.broken, summary.resumed) == (STEPS, (), 0)
    assert ids == [sample.id for sample in source]
    _, adapter = job("toy_lm:mock", source, tmp_path)
    for index in (0, 7, STEPS - 1):
        alone = pooled(adapter, [list(source)[index]], [LAST])[LAST][0]
        np.testing.assert_allclose(values[index], alone, atol=1e-5 * np.abs(alone).max())


def test_a_second_run_finds_everything_done(tmp_path: Path) -> None:
    first = extracted("toy_lm:mock", stream(Episodes()), tmp_path)
    before = tree(tmp_path)

    def engine(job: object, shards: list[int]) -> None:
        raise AssertionError(f"shards {shards} are computed again")

    made, _ = job("toy_lm:mock", stream(Episodes()), tmp_path)
    again = run(made, engine)
    assert (again.made, again.rows, again.resumed) == (first.made, first.rows, 4)
    assert tree(tmp_path) == before
    assert len(Store(tmp_path).events()) == 2


@pytest.mark.parametrize("selection", [{"episodes": 3}, {"steps": 2}, {"episodes": 5, "steps": 1}, {"plan": frozenset({"e1/2", "e6/0", "e1/0"})}, {"episodes": 100}], ids=["episodes", "steps", "both", "plan", "more than there are"])
def test_a_selection_takes_its_samples_and_has_an_entry_of_its_own(tmp_path: Path, selection: dict) -> None:
    whole = extracted("toy_lm:mock", stream(Episodes()), tmp_path)
    part = extracted("toy_lm:mock", stream(Episodes(), **selection), tmp_path)
    values, ids = rows(tmp_path, part.made["lm.03.output"])
    chosen = [sample.id for sample in stream(Episodes(), **selection)]
    episodes, steps, plan = (selection.get(name) for name in ("episodes", "steps", "plan"))
    kept = [(int(sample.episode[1:]), sample) for sample in Episodes()]
    assert ids == chosen == [s.id for e, s in kept if e < (episodes or 9) and s.step < (steps or 9) and (plan is None or s.id in plan)]
    assert whole.made != part.made
    every, names = rows(tmp_path, whole.made["lm.03.output"])
    near = every[[names.index(identity) for identity in ids]]
    np.testing.assert_allclose(values, near, atol=1e-5 * np.abs(near).max())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What an uninterrupted run makes, by layout."""
    import torch

    torch.set_num_threads(1)  # as in the children
    found = {}
    for layout in ("store", "steps"):
        folder = tmp_path_factory.mktemp(layout) / "out"
        extracted("toy_lm:mock", stream(Episodes()), folder, layout=layout)
        found[layout] = tree(folder)
    return found


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    """Twenty random moments of its progress; that most runs were killed halfway is asserted, so the test cannot pass by missing them."""
    dice, layouts = random.Random(0), ["store", "steps"] * 10
    child = _forked.server().Process(target=interrupted, args=(tmp_path, layouts, [dice.randrange(len(whole[layout])) for layout in layouts]))
    child.start()
    child.join()
    assert child.exitcode == 0
    halfway = 0
    for number, layout in enumerate(layouts):
        killed, resumed = tmp_path / f"{number}/killed", tmp_path / f"{number}/resumed"
        halfway += killed.exists() and bool(tree(killed)) and tree(killed).keys() != whole[layout].keys()
        assert tree(resumed) == whole[layout], f"killed at moment {number}"
    assert halfway >= 10


def test_the_comparison_above_sees_one_changed_bit(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    extracted("toy_lm:mock", stream(Episodes()), tmp_path / "out")
    (shard,) = [path for path in (tmp_path / "out").rglob("shard-0001.safetensors")][:1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert tree(tmp_path / "out") != whole["store"]


def test_a_damaged_shard_of_an_unfinished_run_is_told_and_computed_again(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    extracted("toy_lm:mock", stream(Episodes()), tmp_path / "out")
    for path in (tmp_path / "out").rglob("entry.json"):
        path.unlink()
    shard = next((tmp_path / "out").rglob("shard-0002.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.warns(StoreWarning, match=r"was altered(.|\n)*computed again"):
        assert extracted("toy_lm:mock", stream(Episodes()), tmp_path / "out").resumed == 3
    assert tree(tmp_path / "out") == whole["store"]


# ---------------------------------------------------------------- samples that fail

WRONG = {"e0/1": "broken", "e3/2": "corrupt", "e5/0": "blank"}


@pytest.mark.parametrize(("wrong", "said"), [("broken", "the record is cut short"), ("corrupt", "a picture cannot be decoded"), ("blank", "has no instruction")])
def test_one_bad_sample_fails_the_run_and_is_named(tmp_path: Path, wrong: str, said: str) -> None:
    with pytest.raises(DamagedError, match=rf"too many records gave no features(.|\n)*1 of the(.|\n)*first e2/1: (.|\n)*{said}(.|\n)*at most 0(.|\n)*--max_failures 1"):
        extracted("openvla:mock", stream(Episodes(4, {"e2/1": wrong})), tmp_path, points=("lm.00.output",))
    assert Store(tmp_path).entries() == []


def test_what_failed_is_in_the_shard_and_in_the_summary_and_the_rest_is_there(tmp_path: Path) -> None:
    source = stream(Episodes(8, WRONG))
    summary = extracted("openvla:mock", source, tmp_path, max_failures=3, points=("lm.00.output",))
    values, ids = rows(tmp_path, summary.made["lm.00.output"])
    assert summary.rows == len(values) == STEPS - 3
    assert {record.id for record in summary.broken} == WRONG.keys()
    assert set(ids) == {sample.id for sample in Episodes()} - WRONG.keys()
    assert sum(summary.reasons.values()) == 3
    (entry,) = Store(tmp_path).entries()
    assert entry["broken"] == 3
    clean = extracted("openvla:mock", stream(Episodes()), tmp_path / "clean", points=("lm.00.output",))
    every, names = rows(tmp_path / "clean", clean.made["lm.00.output"])
    near = every[[names.index(identity) for identity in ids]]
    np.testing.assert_allclose(values, near, atol=1e-5 * np.abs(near).max())


def test_failures_of_an_earlier_run_count_when_it_goes_on(tmp_path: Path) -> None:
    source = stream(Episodes(8, WRONG))
    with pytest.raises(DamagedError, match=r"1 of the|2 of the"):
        extracted("openvla:mock", source, tmp_path, max_failures=0, points=("lm.00.output",))
    with pytest.raises(DamagedError, match="3 of the"):
        extracted("openvla:mock", source, tmp_path, max_failures=2, points=("lm.00.output",))
    assert extracted("openvla:mock", source, tmp_path, max_failures=3, points=("lm.00.output",)).resumed >= 1


def test_blank_instructions_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    summary = extracted("openvla:mock", stream(Episodes(8, {"e5/0": "blank", "e6/1": "blank"}), skip_blank=True), tmp_path, points=("lm.00.output",))
    assert (summary.rows, [record.id for record in summary.broken]) == (STEPS - 2, ["e5/0", "e6/1"])
    assert summary.reasons == {"its instruction is blank": 2}


def test_a_row_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    made, adapter = job("toy_lm:mock", stream(Episodes(2)), tmp_path)

    def keep(batch: Any) -> Any:
        bad = [[identity == "e0/1"] for identity in batch.sample_ids]
        return lambda point, values: values[:, 0].masked_fill(values.new_tensor(bad).bool(), float("nan"))

    (block,) = blocks(adapter, [(0, Episodes(1))], [LAST], keep, batch_size=8)
    assert [record.id for record in block.broken] == ["e0/1"]
    assert "at lm.03.output are not finite" in block.broken[0].reason
    assert block.sample_ids == ("e0/0", "e0/2") and len(block.rows[LAST]) == 2
    assert np.isfinite(block.rows[LAST]).all()


def test_a_dataset_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no samples"):
        extracted("toy_lm:mock", stream(Episodes(3), plan=frozenset({"none"})), tmp_path)


def test_pictures_are_not_decoded_for_a_model_that_reads_none(tmp_path: Path) -> None:
    everything_corrupt = {sample.id: "corrupt" for sample in Episodes()}
    assert extracted("toy_lm:mock", stream(Episodes(8, everything_corrupt)), tmp_path).rows == STEPS


def test_a_camera_that_the_model_does_not_look_at_is_not_decoded(tmp_path: Path) -> None:
    made, adapter = job("openvla:mock", stream(Episodes(1)), tmp_path, points=("lm.00.output",))
    first = next(iter(Episodes(1)))

    def never() -> np.ndarray:
        raise AssertionError("decoded")

    both = Sample("a", first.instruction, Pictures({"wrist": never, **first.images.sources}))
    (block,) = blocks(adapter, [(0, [both])], made.sink.points, made.sink.keep)
    assert (block.sample_ids, block.broken) == (("a",), ())


def test_memory_holds_a_few_batches_whatever_the_length(tmp_path: Path) -> None:
    """How many decoded pictures are alive at once while a long shard passes by."""
    alive, most = [0], [0]

    class Picture(np.ndarray):
        def __del__(self) -> None:
            alive[0] -= 1

    def source() -> np.ndarray:
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return np.zeros((8, 8, 3), np.uint8).view(Picture)

    samples = [Sample(str(index), "lift it", Pictures({"primary": source})) for index in range(200)]
    made, adapter = job("openvla:mock", stream(Episodes(1)), tmp_path, points=("lm.00.output",))
    (block,) = blocks(adapter, [(0, samples)], made.sink.points, made.sink.keep, batch_size=4)
    assert len(block.sample_ids) == 200
    assert most[0] <= 4 * 6


# ---------------------------------------------------------------- the destination


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the destination is read-only"), (errno.EACCES, "cannot be written to")])
@pytest.mark.parametrize("layout", ["store", "steps"])
def test_a_disk_that_gives_out_is_told_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, dict[str, bytes]], layout: str, code: int, said: str) -> None:
    folder, written, write = tmp_path / "out", [], Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 9:
            raise OSError(code, "No")
        return write(path, data)

    with monkeypatch.context() as patch, pytest.raises(MissingError, match=rf"{said}(.|\n)*finished shards are kept"):
        patch.setattr(Path, "write_bytes", write_bytes)
        extracted("toy_lm:mock", stream(Episodes()), folder, layout=layout)
    assert not [path for path in folder.rglob("*.tmp")]
    assert extracted("toy_lm:mock", stream(Episodes()), folder, layout=layout).rows == STEPS
    assert tree(folder) == whole[layout]


def test_a_real_disk_that_is_full_is_told(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: run as root")
    try:
        with pytest.raises(MissingError, match=r"the disk is full(.|\n)*make room"):
            extracted("toy_lm:mock", stream(Episodes()), tmp_path / "out")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_store_behind_an_address_holds_the_same_bytes(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    root = f"memory://{tmp_path.name}-extraction"
    made, adapter = job("toy_lm:mock", stream(Episodes()), tmp_path)
    from dataclasses import replace

    summary = run(replace(made, sink=replace(made.sink, root=root)), partial(local, adapter=adapter))
    place = storage.storage(root)
    assert {name: place.read(name) for name in place.names()} == whole["store"]
    features = Store(root).read(made.sink.keys[LAST])
    assert features is not None and len(features.values) == summary.rows


# ---------------------------------------------------------------- selection


def test_steps_are_counted_in_each_episode_and_broken_ones_count() -> None:
    records = [Sample("a", episode="x"), Broken("b", "cut", "x"), Sample("c", episode="x"), Sample("d", episode="y")]
    assert [record.id for record in Selection(steps=2).chosen(iter(records))] == ["a", "b", "d"]


def test_samples_without_an_episode_are_episodes_of_their_own() -> None:
    assert len(list(Selection(steps=1).chosen(iter([Sample("a"), Sample("b")])))) == 2
