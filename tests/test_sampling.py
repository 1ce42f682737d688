"""Statistics of a dataset, plans of samples to take, and how many samples a statistic needs."""

from __future__ import annotations

import json
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from harness import cli, readers, sampling
from harness.cli import _dataset  # noqa: F401 - adds its commands
from harness.datasets import Reader
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.pictures import Pictures
from harness.readers import Selection, Stream
from harness.sampling import _columns, _duplicates, _episodes
from harness.sampling._allocation import places, shares
from harness.types import Broken, Sample

ROOT = Path(__file__).resolve().parent.parent
Records = Sequence[Sequence[Sample | Broken]]


class Fake(Reader):
    """Episodes given as lists of records; remembers which were read."""

    def __init__(self, episodes: Records, shard: int) -> None:
        self.episodes, self.shard, self.ranges = episodes, shard, []

    def __len__(self) -> int:
        return len(self.episodes)

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        self.ranges.append((start, stop))
        for episode in self.episodes[start:stop]:
            yield from episode

    def identity(self) -> object:
        return len(self.episodes)

    def keys(self) -> dict[str, str]:
        return {"action": "float32 (7,)"}


def stream(episodes: Records, *, shard: int = 2, digest: str = "d" * 64) -> Stream:
    return Stream("fake", digest, Fake(episodes, shard))


def episode(name: str, length: int, *, instruction: str = "lift the cup", action: np.ndarray | None = None, **fields: object) -> list[Sample]:
    return [
        Sample(f"{name}/{step:03d}", instruction, action=None if action is None else action[step], group=name, episode=name, step=step, fields=fields)
        for step in range(length)
    ]


class Damaged(NamedTuple):
    def __call__(self) -> np.ndarray:
        raise DamagedError("a picture cannot be decoded", got="3 bytes")


class Looked(NamedTuple):
    """A picture that remembers who looked at it."""

    id: str
    looks: list[str]
    picture: np.ndarray

    def __call__(self) -> np.ndarray:
        self.looks.append(self.id)
        return self.picture


# labels and runs


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (Sample("a", " lift ", group="g"), {"task": "lift", "instruction": "lift", "group": "g"}),
        (Sample("a", " ", group="g"), {"task": "g", "instruction": "", "group": "g"}),
        (
            Sample("a", "go", fields={"scenario": {"boxes": 2, "orientation": "hori", "side": "left", "pattern": "core", "difficulty": "easy"}}),
            {"task": "2box_hori_left", "boxes": "2", "orientation": "hori", "side": "left", "pattern": "core", "difficulty": "easy"}
            | {"instruction": "go", "group": ""},
        ),
        (
            Sample("a", "go", fields={"success": np.True_, "count": np.int64(3), "reward": 0.5, "action": {"x": 1}, "scenario": {"side": "left"}}),
            {"task": "go", "success": "true", "count": "3", "side": "left", "instruction": "go", "group": ""},
        ),
    ],
)
def test_labels_are_texts_flags_and_integers(sample: Sample, expected: Mapping[str, str]) -> None:
    assert _episodes.labels(sample) == expected


def test_an_episode_that_crosses_a_shard_is_one_run() -> None:
    row = partial(replace, Sample("", "go"))
    rows = [[row(id="0", episode="a")], [row(id="1", episode="a")], [Broken("2", "no picture")], [row(id="3", episode="a")], [row(id="4")], [row(id="5")]]
    found = [(run.episode, run.shards, [record.id for record in run.records]) for run in _episodes.runs(stream(rows, shard=1))]
    assert found == [("a", (0, 1, 2, 3), ["0", "1", "2", "3"]), ("4", (4,), ["4"]), ("5", (5,), ["5"])]


# stats


def mixed() -> Records:
    actions = np.array([[0, 1, np.nan], [0, 3, 5]], np.float32)
    return [
        episode("a", 2, action=actions, difficulty="easy", scale=1),
        [Broken("b", "truncated at byte 17", "b")],
        episode("c", 3, instruction="  ", difficulty="hard"),
        [Broken("d", "truncated at byte 23", "d"), Broken("e", "no actions", "e"), Broken("f", "its instruction is blank", "f", left_out=True)],
        episode("g", 2, instruction="open <b>it</b>", difficulty="easy"),
    ]


def test_statistics_count_what_is_there() -> None:
    found = sampling.stats(stream(mixed()))
    assert (found.listed, found.episodes, found.samples, found.broken_records, found.left_out) == (5, 3, 7, 3, 1)
    assert found.lengths == {2: 2, 3: 1}
    assert (found.instructed, found.instructions, found.coverage) == (4, 2, 4 / 7)
    assert {name: tuple(vars(count).values()) for name, count in found.tasks.items()} == {"c": (1, 3), "lift the cup": (1, 2), "open <b>it</b>": (1, 2)}
    assert {name: tuple(vars(count).values()) for name, count in found.fields["difficulty"].items()} == {"easy": (2, 4), "hard": (1, 3)}
    assert [(one.reason, one.count, one.ids) for one in found.broken] == [("truncated at byte 17", 2, ("b", "d")), ("no actions", 1, ("e",))]
    assert [(numbers.shape, numbers.samples, numbers.columns) for numbers in found.actions] == [
        ((3,), 2, (_columns.Column(0, 0, 0, 0, True, 0), _columns.Column(1, 3, 2, 1, False, 0), _columns.Column(5, 5, 5, 0, True, 1)))
    ]
    assert (found.repeated_ids, found.checked_share, found.keys, found.decoded) == (0, 1, {"action": "float32 (7,)"}, None)
    assert not found.holds
    assert sampling.stats(stream([mixed()[0]])).holds


def test_a_field_of_many_values_is_not_listed_but_tasks_are() -> None:
    found = sampling.stats(stream([episode(f"e{n}", 1, instruction=f"task {n}", frame=n, half=n % 2) for n in range(300)]))
    assert found.fields["frame"] is None and found.fields["group"] is None
    assert set(found.fields["half"]) == {"0", "1"}
    assert len(found.tasks) == 300


def test_reasons_beyond_the_hundredth_kind_are_counted_together() -> None:
    names = [chr(ord("a") + n // 26) + chr(ord("a") + n % 26) for n in range(120)]
    found = sampling.stats(stream([[Broken(name, f"no {name}", name)] for name in names]))
    assert found.broken_records == 120
    assert len(found.broken) == 101 and (found.broken[0].reason, found.broken[0].count) == ("other reasons", 20)


@pytest.mark.parametrize(("twice", "expected"), [([0], 1), ([0, 3, 4], 3), ([], 0)])
def test_ids_that_come_twice_are_counted_and_fail(twice: Sequence[int], expected: int) -> None:
    records = [episode("a", 5), [replace(sample, episode="b") for sample in episode("a", 5) if sample.step in twice]]
    found = sampling.stats(stream(records))
    assert (found.repeated_ids, len(found.first_repeated), found.holds) == (expected, expected, not expected)


def test_ids_are_looked_at_in_bounded_memory_and_twins_together() -> None:
    small, large = _duplicates.Duplicates(limit=50), _duplicates.Duplicates()
    ids = [f"id-{n}" for n in range(1000)]
    for id in (*ids, *ids):
        small.add(id), large.add(id)
    assert (large.count, large.checked_share) == (1000, 1)
    assert len(small._seen) <= 50 and small.checked_share <= 1 / 16
    assert small.count == len(small._seen)  # each one kept was found again


def pictured(count: int, looks: list[str], picture: np.ndarray) -> Records:
    names = [f"{n:03d}" for n in range(count)]
    cameras = ("front", "wrist")
    return [[Sample(name, "go", Pictures({camera: Looked(f"{name} {camera}", looks, picture) for camera in cameras}))] for name in names]


@pytest.mark.parametrize(("count", "decode", "expected"), [(100, 0, 0), (100, 10, 10), (1000, 10, 10), (7, 10, 7), (21, 10, 10)])
def test_as_many_pictures_are_decoded_as_asked_for_spread_over_data_and_cameras(count: int, decode: int, expected: int) -> None:
    looks: list[str] = []
    found = sampling.stats(stream(pictured(count, looks, np.eye(4, 5, dtype=np.uint8)[..., None].repeat(3, 2))), decode=decode)
    assert len(looks) == expected
    assert found.cameras == {"front": count, "wrist": count}
    if expected == 10:
        assert found.decoded.pictures == 10 and not found.decoded.flat
        assert found.decoded.sizes == {"front uint8 4x5x3": 5, "wrist uint8 4x5x3": 5}
        rows = [int(look[:3]) for look in looks]
        gaps = np.diff([*rows, count])
        assert rows[0] == 0 and gaps.min() > 0 and gaps.max() <= 2 * count / 10 + 1


def test_pictures_that_are_damaged_or_show_nothing_are_named() -> None:
    records = [[Sample("a", images=Pictures({"front": Damaged()}))], [Sample("b", images={"front": np.zeros((2, 2, 3), np.uint8)})]]
    found = sampling.stats(stream(records), decode=5)
    assert found.decoded.broken == {"a front": "a picture cannot be decoded 3 bytes"}
    assert found.decoded.flat == ("b front",)
    assert found.broken_records == 0 and not found.holds
    assert sampling.stats(stream(records)).holds


def test_memory_does_not_grow_with_the_pictures_that_pass_by() -> None:
    class Long(Fake):
        def read(self, start: int, stop: int) -> Iterator[Sample]:
            for n in range(start, stop):
                yield Sample(f"{n}", "go", {"front": np.zeros((100, 100, 3), np.uint8)}, episode=f"{n // 4}")

    def peak(count: int) -> int:
        tracemalloc.start()
        sampling.stats(Stream("long", "", Long([[]] * count, 8)), decode=3)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(20)
    assert peak(400) - peak(100) < 10 * 30_000  # 300 more pictures of 30 kB


def test_columns_agree_with_numpy_whatever_is_not_finite() -> None:
    random = np.random.default_rng(0)
    rows = [1e6 + random.normal(size=(length, 3)) for length in (5, 1, 9)]
    rows[0][2, 1], rows[2][0, 2] = np.nan, np.inf
    rows[1][0, 1] = np.nan
    counted = _columns.Columns(3)
    for own in rows:
        counted.add(own)
    whole = np.concatenate(rows)
    for index, found in enumerate(counted.columns()):
        kept = whole[np.isfinite(whole[:, index]), index]
        assert (found.min, found.max, found.not_finite, found.constant) == (kept.min(), kept.max(), len(whole) - len(kept), False)
        np.testing.assert_allclose((found.mean, found.std), (kept.mean(), kept.std()), rtol=1e-9)
    empty = _columns.Columns(1)
    empty.add(np.full((2, 1), np.nan))
    assert empty.columns() == (_columns.Column(None, None, None, None, False, 2),) and empty.icc() == (None,)


def slow_icc(rows: Sequence[np.ndarray]) -> float:
    """Oracle: the analysis of variance written out for one column."""
    n, k = sum(map(len, rows)), len(rows)
    grand = np.concatenate(rows).mean()
    msb = sum(len(own) * (own.mean() - grand) ** 2 for own in rows) / (k - 1)
    msw = sum(((own - own.mean()) ** 2).sum() for own in rows) / (n - k)
    n0 = (n - sum(len(own) ** 2 for own in rows) / n) / (k - 1)
    return float((msb - msw) / (msb + (n0 - 1) * msw))


def test_intraclass_correlation_is_that_of_the_analysis_of_variance() -> None:
    random = np.random.default_rng(1)
    counted, rows = _columns.Columns(3), []
    for length in random.integers(1, 12, size=300):
        same = 0.8 * random.normal() + 0.6 * random.normal(size=length)  # 0.64 of the variance lies between episodes
        rows.append(same)
        counted.add(np.stack([same, np.zeros(length), random.normal(size=length)], axis=1))
    first, constant, free = counted.icc()
    assert first == pytest.approx(slow_icc(rows), rel=1e-9) and first == pytest.approx(0.64, abs=0.06)
    assert constant is None
    assert free < 0.05


@pytest.mark.parametrize(
    ("episodes", "expected"),
    [([[0, 0], [1, 1]], 1.0), ([[0, 1], [0, 1]], 0.0), ([[0, 2], [2, 4]], 1 / 3), ([[1], [2]], None), ([[1, 2]], None)],
)
def test_intraclass_correlation_by_hand(episodes: Sequence[Sequence[float]], expected: float | None) -> None:
    counted = _columns.Columns(1)
    for own in episodes:
        counted.add(np.array(own, float)[:, None])
    assert counted.icc() == (expected if expected is None else pytest.approx(expected),)


def test_the_page_stands_alone_and_escapes_what_it_shows() -> None:
    found = sampling.stats(stream(mixed()), decode=2)
    text = sampling.page(found, "p { color: red }")
    assert text == sampling.page(found, "p { color: red }")
    assert "open &lt;b&gt;it&lt;/b&gt;" in text and "<b>it" not in text
    assert not re.search(r"https?://|<script|<link|src=", text)
    assert len(re.findall(r"<rect x=[^>]*><title>[23] samples: [12] episodes", text)) == 2
    assert "truncated at byte 17" in text and text.count('class="constant"') == 2


@pytest.mark.parametrize("records", [[], [[]], [[Broken("a", "gone")]]])
def test_an_empty_dataset_has_a_page_too(records: Records) -> None:
    found = sampling.stats(stream(records), decode=3)
    assert found.samples == 0 and "0 samples in 0 episodes" in sampling.page(found, "")
    assert sampling.tables(found)


def test_json_keeps_every_count_and_no_nan() -> None:
    found = sampling.as_json(sampling.stats(stream(mixed()), decode=1))
    again = json.loads(json.dumps(found, allow_nan=False))
    assert (again["holds"], again["samples"], again["lengths"], again["coverage"]) == (False, 7, {"2": 2, "3": 1}, 4 / 7)
    assert again["actions"][0]["columns"][2] == {"min": 5.0, "max": 5.0, "mean": 5.0, "std": 0.0, "constant": True, "not_finite": 1}


# plans


@pytest.mark.parametrize(
    ("limits", "n", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([1, 10, 10], 9, [1, 4, 4]),
        ([1, 2, 100], 50, [1, 2, 47]),
        ([1, 2, 3], 100, [1, 2, 3]),
        ([0, 5], 3, [0, 3]),
        ([], 3, []),
        ([5, 5], 0, [0, 0]),
    ],
)
def test_shares_are_equal_as_far_as_they_last(limits: Sequence[int], n: int, expected: Sequence[int]) -> None:
    assert shares(limits, n, np.random.default_rng(0)).tolist() == expected


@pytest.mark.parametrize("seed", range(30))
def test_shares_differ_by_one_at_most_unless_a_limit_is_reached(seed: int) -> None:
    random = np.random.default_rng(seed)
    limits = random.integers(0, 30, size=random.integers(1, 20))
    n = int(random.integers(1, 300))
    given = shares(limits, n, random)
    assert given.sum() == min(n, limits.sum()) and (given <= limits).all()
    unfinished = given[given < limits]
    assert not unfinished.size or given.max() - unfinished.min() <= 1


def test_what_cannot_be_divided_prefers_no_one() -> None:
    wins = sum(shares([5, 50, 500], 4, np.random.default_rng(seed)) for seed in range(600)) - 600
    assert wins.sum() == 600 and wins.min() > 150


@pytest.mark.parametrize(("count", "k"), [(1, 1), (10, 1), (10, 3), (10, 9), (10, 10), (7, 5), (1000, 37), (5, 0)])
def test_places_are_distinct_and_at_even_distances(count: int, k: int) -> None:
    for seed in range(20):
        (found,) = places([count], [k], np.random.default_rng(seed))
        assert len(set(found.tolist())) == len(found) == k
        if k:
            gaps = np.diff([*found, found[0] + count])
            assert 0 <= found.min() and found.max() < count and gaps.max() - gaps.min() <= 1


def test_one_sample_of_each_of_many_episodes_covers_every_step() -> None:
    found = places([10] * 100, [1] * 100, np.random.default_rng(3))
    assert Counter(int(own[0]) for own in found) == {step: 10 for step in range(10)}


def scenes(*, shard: int = 2) -> Stream:
    """80 easy, 20 medium and 2 hard samples, ten of an episode but for the last."""
    kinds = ["easy"] * 8 + ["medium"] * 2
    records = [episode(f"e{n}", 10, difficulty=kind) for n, kind in enumerate(kinds)] + [episode("last", 2, difficulty="hard")]
    return stream([*records, [Broken("x", "truncated", "x")]], shard=shard)


def test_a_plan_is_balanced_and_spreads_over_episodes_first() -> None:
    found = sampling.plan(scenes(), 18, ["difficulty"], 0)
    rows = [(part.stratum["difficulty"], part.available, part.episodes, part.chosen, part.chosen_episodes, part.weight) for part in found.strata]
    assert rows == [("easy", 80, 8, 8, 8, 10.0), ("hard", 2, 1, 2, 1, 1.0), ("medium", 20, 2, 8, 2, 2.5)]
    left = "an equal share of what strata that end early leave"
    assert [part.why for part in found.strata] == [left, "all there are; an equal share would be 6.0", left]
    assert Counter(id.partition("/")[0] for id in found.ids) == {**{f"e{n}": 1 for n in range(8)}, "e8": 4, "e9": 4, "last": 2}
    assert found.broken == 1 and "could not be chosen: 1." in found.justification[0]


def test_the_seed_and_nothing_else_decides() -> None:
    plans = {seed: sampling.plan(scenes(), 20, ["difficulty"], seed).ids for seed in (0, 1)}
    assert plans[0] != plans[1]
    for shard in (1, 3, 100):
        assert sampling.plan(scenes(shard=shard), 20, ["difficulty"], 0).ids == plans[0]
    assert list(plans[0]) == [record.id for record in scenes() if record.id in plans[0]]


@pytest.mark.parametrize(
    ("n", "by", "per_episode", "chosen"),
    [(500, ["difficulty"], None, [80, 2, 20]), (500, ["difficulty"], 3, [24, 2, 6]), (11, [], 1, [11]), (1, ["difficulty", "task"], None, [0, 0, 1])],
)
def test_sizes_of_strata(n: int, by: Sequence[str], per_episode: int | None, chosen: Sequence[int]) -> None:
    found = sampling.plan(scenes(), n, by, 0, per_episode=per_episode)
    assert sorted(part.chosen for part in found.strata) == sorted(chosen)
    assert len(found.ids) == len(set(found.ids)) == sum(chosen)
    if per_episode:
        assert max(Counter(id.partition("/")[0] for id in found.ids).values()) <= per_episode
    assert all(("none" in part.why) == (part.chosen == 0) == (part.weight is None) for part in found.strata)
    assert any("limit per episode" in part.why for part in found.strata) == (per_episode is not None)


def test_an_unknown_field_answers_with_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match="no field to stratify by named 'dificulty'; the nearest is 'difficulty'") as caught:
        sampling.plan(scenes(), 30, ["task", "dificulty"], 0)
    assert "difficulty, instruction, task, group" in str(caught.value)


def test_a_field_that_some_samples_lack_is_a_stratum_of_its_own() -> None:
    found = sampling.plan(stream([episode("a", 4, side="left"), episode("b", 4)]), 4, ["side"], 0)
    assert [(part.stratum["side"], part.chosen) for part in found.strata] == [("(none)", 2), ("left", 2)]


def test_strata_may_change_within_an_episode_and_episodes_cross_shards() -> None:
    rows = [[Sample(f"{n}", "go", episode=f"{n // 8}", fields={"event": "start" if n % 8 < 2 else "move"})] for n in range(32)]
    found = sampling.plan(stream(rows, shard=3), 12, ["event"], 0)
    assert [(part.available, part.episodes, part.chosen) for part in found.strata] == [(24, 4, 6), (8, 4, 6)]
    assert sum(int(id) % 8 < 2 for id in found.ids) == 6


def test_samples_without_episodes_can_be_planned() -> None:
    found = sampling.plan(stream([[Sample(f"{n}", f"task {n % 3}")] for n in range(30)]), 9, ["task"], 0)
    assert Counter(int(id) % 3 for id in found.ids) == {0: 3, 1: 3, 2: 3}
    assert "No two come from one episode" in " ".join(found.justification)


def test_the_second_reading_is_of_shards_that_hold_something_chosen() -> None:
    opened = stream([episode(f"e{n}", 4) for n in range(100)], shard=1)
    found = sampling.plan(opened, 3, [], 0)
    assert len(opened.reader.ranges) == 103
    assert {f"e{start}" for start, _ in opened.reader.ranges[100:]} == {id.partition("/")[0] for id in found.ids}


@pytest.mark.parametrize(
    ("records", "arguments", "match"),
    [
        ([episode("a", 2)], {"n": 0}, "cannot be made"),
        ([episode("a", 2)], {"per_episode": 0}, "cannot be made"),
        ([episode("a", 2)], {"by": ["task", "task"]}, "cannot be made"),
        ([[Broken("a", "gone")]], {"by": []}, "nothing to choose from"),
        ([episode("a", 2), [replace(sample, episode="b") for sample in episode("a", 2)]], {}, "cannot be told apart"),
    ],
)
def test_what_cannot_be_planned_is_refused(records: Records, arguments: Mapping[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        sampling.plan(stream(records), **{"n": 4, "by": ["task"], "seed": 0, **arguments})


def written(found: sampling.Plan, path: Path) -> Path:
    path.write_text(json.dumps(sampling.as_json(found), allow_nan=False), encoding="utf-8")
    return path


def test_a_written_plan_chooses_its_samples(tmp_path: Path) -> None:
    found = sampling.plan(scenes(), 18, ["difficulty"], 0)
    ids = sampling.load_plan(written(found, tmp_path / "plan.json"), scenes())
    assert tuple(record.id for record in replace(scenes(), selection=Selection(plan=ids))) == found.ids


def test_a_plan_for_other_data_is_refused(tmp_path: Path) -> None:
    path = written(sampling.plan(scenes(), 18, ["difficulty"], 0), tmp_path / "plan.json")
    with pytest.raises(UsageError, match="made for another dataset") as caught:
        sampling.load_plan(path, replace(scenes(), digest="e" * 64))
    assert "dddddddddddd" in str(caught.value) and "harness dataset plan fake" in str(caught.value)


@pytest.mark.parametrize("change", [{"ids": None}, {"ids": ["a", 2]}, {"ids": ["a", "a"]}, {"ids": ["a"]}, {"strata": 3}, {"strata": [{}]}, None, "text"])
def test_a_damaged_plan_is_refused(tmp_path: Path, change: object) -> None:
    content = sampling.as_json(sampling.plan(scenes(), 2, [], 0))
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**content, **change}) if isinstance(change, dict) else "[]" if change is None else "{", encoding="utf-8")
    with pytest.raises(DamagedError, match="a plan"):
        sampling.load_plan(path, scenes())
    with pytest.raises(MissingError, match="no plan here"):
        sampling.load_plan(tmp_path / "none.json", scenes())


# how many


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"half_width": 0.05}, 385),  # Cochran's own example: 1.96² x 0.25 / 0.0025
        ({"half_width": 0.1}, 97),
        ({"half_width": 0.1, "span": 2.0}, 385),
        ({"half_width": 0.05, "rho": 0.5, "per_episode": 5}, 1153),  # 384.15 x 3
        ({"half_width": 0.05, "rho": 1.0, "per_episode": 1}, 385),
        ({"half_width": 0.05, "confidence": 0.99}, 664),
    ],
)
def test_required_samples_by_hand(arguments: Mapping[str, float], expected: int) -> None:
    assert sampling.required_n(**arguments) == expected


@pytest.mark.parametrize("arguments", [{"half_width": 0}, {"rho": 1.1}, {"per_episode": 0.5}, {"confidence": 1}, {"span": 0}])
def test_a_number_that_does_not_exist_is_refused(arguments: Mapping[str, float]) -> None:
    with pytest.raises(UsageError, match="no number of samples"):
        sampling.required_n(**{"half_width": 0.1, **arguments})


@pytest.mark.parametrize(("chosen", "rho", "expected"), [([1] * 9, 0.7, 1.0), ([5] * 9, 0.5, 3.0), ([1, 3], 1.0, 2.5), ([5, 5], 0.0, 1.0)])
def test_design_effect_by_hand(chosen: Sequence[int], rho: float, expected: float) -> None:
    assert sampling.design_effect(chosen, rho) == pytest.approx(expected)
    with pytest.raises(UsageError, match="no design effect"):
        sampling.design_effect([], rho)


def test_a_plan_says_what_its_samples_are_worth() -> None:
    random = np.random.default_rng(0)
    actions = [np.array([[0.8], [0]]).T * random.normal() + np.array([0.6, 1]) * random.normal(size=(10, 2)) for _ in range(200)]  # the second is free
    known = sampling.plan(stream([episode(f"e{n}", 10, action=action) for n, action in enumerate(actions)]), 500, [], 0)
    assert known.precision.rho == pytest.approx(0.64, abs=0.06)
    assert known.precision.n_effective == pytest.approx(500 / (1 + (2.6 - 1) * known.precision.rho))  # 100 episodes give 2, 100 give 3
    assert known.precision.half_width > known.precision.wanted and "not enough" in " ".join(known.justification)
    unknown = sampling.plan(stream([episode(f"e{n}", 10) for n in range(200)]), 500, [], 0)
    assert unknown.precision.rho is None and unknown.precision.n_effective == pytest.approx(500 / 2.6)
    assert "is unknown" in " ".join(unknown.justification)


def mean(rows: np.ndarray) -> float:
    return float(rows.mean())


def test_the_interval_of_a_normal_mean_is_the_analytic_one() -> None:
    values = 3 * np.random.default_rng(0).normal(size=(4000, 1))
    for found in sampling.interval_width(values, None, mean, [50, 500, 2000], 0, resamples=2000):
        assert found.width == pytest.approx(2 * 1.96 * 3 / np.sqrt(found.n), rel=0.1)
        assert found.low < 0 < found.high and found.episodes == found.n


def test_a_bootstrap_of_rows_is_too_narrow_when_episodes_are_alike() -> None:
    """2000 rows, 10 of an episode, rho 0.64: the mean of 500 varies by sqrt(1 + 9 x 0.64) = 2.6 times what independent rows would."""
    random = np.random.default_rng(2)
    values = np.repeat(0.8 * random.normal(size=(200, 1)), 10, axis=0) + 0.6 * random.normal(size=(2000, 1))
    groups = [f"{row // 10}" for row in range(2000)]
    (naive,), (clustered,) = (sampling.interval_width(values, own, mean, [500], 0) for own in (None, groups))
    true = 2 * 1.96 * np.sqrt((1 + 9 * 0.64) / 500)
    assert clustered.width == pytest.approx(true, rel=0.15) and clustered.episodes == 50
    assert naive.width < 0.5 * true


def test_whole_episodes_are_drawn_wherever_their_rows_lie() -> None:
    groups = ["b", "a", "b", "c", "a", "b"]
    drawn: list[Counter[int]] = []
    sampling.interval_width(np.arange(6.0)[:, None], groups, lambda rows: drawn.append(Counter(rows[:, 0].astype(int).tolist())) or 0.0, [6], 0, resamples=50)
    for rows in drawn:
        times = {name: {rows[row] for row in range(6) if groups[row] == name} for name in "abc"}
        assert all(len(found) == 1 for found in times.values()) and sum(sum(found) for found in times.values()) == 3
    assert len({tuple(sorted(rows.items())) for rows in drawn}) > 5


def test_the_interval_follows_the_seed_and_knows_where_the_data_end() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    groups = [f"{row // 4}" for row in range(40)]
    small, large = sampling.interval_width(values, groups, mean, [20, 80], 0, resamples=50)
    assert (small.episodes, small.extrapolated, large.episodes, large.extrapolated) == (5, False, 20, True)
    assert sampling.interval_width(values, groups, mean, [80], 0, resamples=50) == (large,)
    assert sampling.interval_width(values, groups, mean, [80], 1, resamples=50) != (large,)


@pytest.mark.parametrize(
    ("values", "groups", "options", "match"),
    [
        (np.zeros((4, 1)), ["a"] * 4, {}, "episodes that differ"),
        (np.zeros((4, 1)), ["a"] * 3, {}, "do not fit"),
        (np.zeros(4), None, {}, "do not fit"),
        (np.zeros((4, 1)), None, {"sizes": [0]}, "at this size"),
        (np.zeros((4, 1)), None, {"confidence": 1.0}, "confidence"),
        (np.full((4, 1), np.nan), None, {}, "not finite"),
    ],
)
def test_an_interval_that_does_not_exist_is_refused(values: np.ndarray, groups: Sequence[str] | None, options: Mapping[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        sampling.interval_width(values, groups, mean, **{"sizes": [2], "seed": 0, **options})


# commands


class Called(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # noqa: ANN201
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HARNESS_CARDS", raising=False)

    def command(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["harness", "dataset", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return Called(exit.value.code or 0, *capsys.readouterr())

    return command


def test_stats_writes_both_files_and_prints_a_table(call, tmp_path: Path) -> None:
    found = call("stats", "libero_instructions", "--output", tmp_path)
    assert found.code == 0 and "112 with samples" in found.out
    assert json.loads((tmp_path / "stats.json").read_text())["samples"] == 112
    assert "--series-0" in (tmp_path / "index.html").read_text()
    assert json.loads(call("stats", "libero_instructions", "--json").out)["instructions"] == 112


def test_stats_gives_options_to_the_reader(call) -> None:
    options = ("--option", 'templates=["{}", "Do: {}"]', "--option", "part=instructions")
    found = call("stats", "fixtures/data/libero_instructions.json", "--reader", "instructions", *options, "--json")
    assert json.loads(found.out)["samples"] == 224
    assert call("stats", "libero_instructions", "--option", "templates").code == 2
    assert "option of datasets read as instructions" in call("stats", "libero_instructions", "--option", "tempates=1").err


def test_stats_exits_with_1_when_a_record_is_broken(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "stream", lambda *_, **__: stream(mixed()))
    assert call("stats", "fake").code == 1
    monkeypatch.setattr(readers, "stream", lambda *_, **__: stream([mixed()[0]]))
    assert call("stats", "fake").code == 0


def test_plan_writes_what_extraction_follows(call, tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.json"
    found = call("plan", "libero_instructions", "--n", 20, "--by", "", "--output", path)
    assert found.code == 0 and "20 of 112 samples are chosen" in found.out
    assert len(sampling.load_plan(path, readers.stream("libero_instructions"))) == 20
    first = path.read_bytes()
    assert call("plan", "libero_instructions", "--n", 20, "--by", "", "--output", path, "--json").code == 0
    assert path.read_bytes() == first


def test_a_plan_that_cannot_be_written_or_made_is_an_error_of_usage(call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = call("plan", "libero_instructions", "--n", 20, "--output", tmp_path / "file" / "plan.json")
    assert found.code == 2 and "cannot be written" in found.err and "Traceback" not in found.err
    found = call("plan", "libero_instructions", "--by", "dificulty", "--output", tmp_path / "plan.json")
    assert found.code == 2 and "dificulty" in found.err and not (tmp_path / "plan.json").exists()


def test_plan_can_leave_out_samples_without_an_instruction(call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    records = stream([episode("a", 5, instruction=" "), episode("b", 5)])
    monkeypatch.setattr(readers, "stream", lambda *_, selection, **__: replace(records, selection=selection))
    for option, expected in (((), {"a", "b"}), (("--skip_blank",), {"b"})):
        found = json.loads(call("plan", "fake", "--n", 4, "--by", "", "--output", tmp_path / "plan.json", "--json", *option).out)
        assert ({id[0] for id in found["ids"]}, found["broken"]) == (expected, 0)
