"""Models against a reference, and layers against layers: which rows are compared, what stands in the result, what is refused."""

from __future__ import annotations

import io
import json
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.alignment import (
    Draws,
    Episodes,
    LayerMap,
    Points,
    Rows,
    align,
    align_layers,
    as_json,
    as_table,
    layers_json,
    layers_png,
    layers_table,
    open_points,
    open_rows,
    page,
    read_episodes,
    scores_png,
)
from harness.alignment._match import match
from harness.alignment._rows import unique_labels
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.metrics.cka import cka
from harness.metrics.cknna import cknna
from harness.metrics.mutual_knn import mutual_knn
from harness.scores import score
from harness.store import Key, Store
from harness.types import Point

FEW = Draws(permutations=9, draws=4)
NONE = Draws(permutations=0, draws=0)


def pair(n: int = 40, d: int = 12, *, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of width d and of width 7 that share a signal."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, 7))
    return (np.tanh(y @ rng.normal(size=(7, d))) + noise * rng.normal(size=(n, d))).astype(np.float32), y.astype(np.float32)


def rows(values: np.ndarray, name: str = "m", ids: tuple[str, ...] | None = None, dataset: str = "") -> Rows:
    return Rows(values, name, name, (name,), sample_ids=ids, dataset=dataset)


def neighbourhoods(x: np.ndarray, k: int, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The kernel matrix of normalised rows and, from the definition, who is among the k nearest of whom."""
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    kernel, chosen = unit @ unit.T, np.zeros((len(x), len(x)))
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and (groups is None or groups[j] != groups[i])]
        chosen[i, sorted(others, key=lambda j: -kernel[i, j])[:k]] = 1
    return kernel, chosen


def dense_cknna(x: np.ndarray, y: np.ndarray, k: int, *, eps: float = 0.0, groups: np.ndarray | None = None) -> float:
    """The published formula with every n by n matrix written out."""
    (kernel, mine), (other, theirs) = neighbourhoods(x, k, groups), neighbourhoods(y, k, groups)
    n, ones = len(x), np.ones(len(x))

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
        return (np.trace(a @ b) + (ones @ a @ ones) * (ones @ b @ ones) / ((n - 1) * (n - 2)) - 2 * (ones @ a @ b @ ones) / (n - 2)) / (n * (n - 3))

    both = mine * theirs
    return hsic(both * kernel, both * other) / (np.sqrt(hsic(mine * kernel, mine * kernel) * hsic(theirs * other, theirs * other)) + eps)


def dense_mutual_knn(x: np.ndarray, y: np.ndarray, k: int, groups: np.ndarray | None = None) -> float:
    return float((neighbourhoods(x, k, groups)[1] * neighbourhoods(y, k, groups)[1]).sum() / (k * len(x)))


class TestReading:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store(tmp_path / "store")

    def test_every_kind_of_file_gives_the_same_rows(self, tmp_path: Path, store: Store) -> None:
        x, y = pair()
        (tmp_path / "model").mkdir()
        torch.save(torch.from_numpy(x), tmp_path / "model/feats_A.pt")
        torch.save({"a": torch.from_numpy(x), "b": torch.from_numpy(y)}, tmp_path / "two.pt")
        torch.save(torch.from_numpy(x), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        np.save(tmp_path / "x.npy", x)
        np.savez(tmp_path / "one.npz", x=x)
        np.savez(tmp_path / "two.npz", a=x, b=y)
        for text in ("model", "model/feats_A.pt", "two.pt:a", "old.pth", "x.npy", "one.npz", "one.npz:x", "two.npz:a"):
            found = open_rows(str(tmp_path / text), store)
            np.testing.assert_array_equal(found.values, x, err_msg=text)
            assert found.values.dtype == np.float32 and not found.notes, text

    @pytest.mark.parametrize(
        ("dtype", "kept", "note"),
        [("float16", "float32", "float16 was read as float32"), ("bfloat16", "float32", "bfloat16"), ("int32", "float64", "int32"), ("float64", "float64", "")],
    )
    def test_half_precision_is_promoted_and_said(self, tmp_path: Path, store: Store, dtype: str, kept: str, note: str) -> None:
        torch.save(torch.arange(12).reshape(4, 3).to(getattr(torch, dtype)), tmp_path / "x.pt")
        found = open_rows(str(tmp_path / "x.pt"), store)
        assert (str(found.values.dtype), found.values[3].tolist()) == (kept, [9, 10, 11])
        assert note in "".join(found.notes) and bool(found.notes) == bool(note)

    @pytest.mark.parametrize(
        ("make", "text", "kind", "message"),
        [
            (lambda at: None, "a.pt", MissingError, "there is no file of features"),
            (lambda at: None, "nothing", MissingError, "there are no features here"),
            (lambda at: np.save(at / "a.npy", np.ones(5)), "a.npy", UsageError, r"no rows of features(.|\n)*float64 \(5,\)(.|\n)*\(n, 1\)"),
            (lambda at: np.save(at / "a.npy", np.ones((0, 3))), "a.npy", UsageError, r"no rows of features(.|\n)*\(0, 3\)"),
            (lambda at: np.save(at / "a.npy", np.array([[1, 2], [np.nan, 3], [np.inf, 1]])), "a.npy", UsageError, "NaN or infinity(.|\n)*2 of 3 .* row 1"),
            (lambda at: np.save(at / "a.npy", np.array([["a"]])), "a.npy", UsageError, "these are no features"),
            (lambda at: np.save(at / "a.npy", np.array([{}]), allow_pickle=True), "a.npy", DamagedError, "not readable"),
            (lambda at: np.savez(at / "a.npz", x=np.ones((4, 2)), y=np.ones((4, 2))), "a.npz", UsageError, "several arrays(.|\n)*x, y(.|\n)*MEMBER"),
            (lambda at: np.savez(at / "a.npz", rows=np.ones((4, 2))), "a.npz:row", UnknownNameError, "nearest is 'rows'"),
            (lambda at: torch.save(torch.ones(4, 2), at / "a.pt"), "a.pt:x", UsageError, "one array and no members"),
            (lambda at: torch.save(["text"], at / "a.pt"), "a.pt", UsageError, "no features(.|\n)*list"),
            (lambda at: (at / "a.pt").write_bytes(b"PK\x03\x04 cut"), "a.pt", DamagedError, "not readable"),
            (lambda at: (at / "a.csv").write_text("1,2"), "a.csv", UsageError, r"no file of features(.|\n)*\.csv(.|\n)*\.npz"),
            (lambda at: (at / "model").mkdir(), "model", MissingError, "no one set of features(.|\n)*feats_A.pt"),
            (lambda at: _points(at / "model"), "model", MissingError, r"2 points: lm.00.output, lm.01.output(.|\n)*name one of them"),
        ],
    )
    def test_what_is_no_rows_of_features_is_refused(
        self, tmp_path: Path, store: Store, make: Callable[[Path], object], text: str, kind: type[HarnessError], message: str
    ) -> None:
        make(tmp_path)
        with pytest.raises(kind, match=message):
            open_rows(str(tmp_path / text), store)

    def test_a_file_is_never_run(self, tmp_path: Path, store: Store) -> None:
        class Bad:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "it-ran",)

        torch.save(Bad(), tmp_path / "new.pt")
        (tmp_path / "old.pt").write_bytes(pickle.dumps(Bad(), protocol=2))
        np.savez(tmp_path / "x.npz", x=np.array([Bad()], dtype=object))
        for name in ("new.pt", "old.pt", "x.npz"):
            with pytest.raises(DamagedError, match="nothing of it was run|not readable"):
                open_rows(str(tmp_path / name), store)
        assert not (tmp_path / "it-ran").exists()

    def test_metadata_of_another_extraction_are_not_believed(self, tmp_path: Path, store: Store) -> None:
        _points(tmp_path / "model")
        told = tmp_path / "model/lm.00.output/extraction_metadata.json"
        told.write_text(json.dumps({"sample_ids": ["a", "b"]}), encoding="utf-8")
        with pytest.raises(DamagedError, match=r"another extraction(.|\n)*2 sample ids for 40 rows"):
            open_rows(str(told.parent), store)

    def test_the_store_gives_a_point_of_the_same_extraction(self, store: Store) -> None:
        keys = _stored(store, ids=tuple("abcdef"))
        for text, point in ((keys[0][:10], "lm.00.output"), (f"{keys[0][:10]}:lm.1.output", "lm.01.output")):
            found = open_rows(text, store)
            assert found.labels[0] == f"mock:real {point}" and found.sample_ids == tuple("abcdef")
        with pytest.raises(UnknownNameError, match=r"no point of this extraction named 'lm.07.output'"):
            open_rows(f"{keys[0]}:lm.07.output", store)
        with pytest.raises(UnknownNameError, match="no store key named"):
            open_rows("0000abcd", store)


    def test_a_damaged_entry_is_refused_and_not_said_to_be_made_anew(self, store: Store, recwarn: pytest.WarningsRecorder) -> None:
        key = _stored(store, ids=tuple("abcdef"), layers=1)[0]
        (shard,) = Path(store.root).glob(f"{key[:2]}/{key}/*.safetensors")
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
        with pytest.raises(DamagedError, match=r"entry of the store is not readable(.|\n)*was altered(.|\n)*harness extract"):
            open_rows(key, store)
        assert not recwarn.list and [event["event"] for event in store.events()] == ["written"]


def _points(folder: Path, layers: int = 2) -> None:
    for layer in range(layers):
        (folder / f"lm.{layer:02d}.output").mkdir(parents=True)
        torch.save(torch.from_numpy(pair(seed=layer)[0]), folder / f"lm.{layer:02d}.output/feats_A.pt")


def _key(point: str, **changed: str) -> Key:
    parts = {name: "x" for name in Key.__annotations__} | {"subject": "mock:real", "pooling": "mean", "versions": {}, "fault": None, "point": point}
    return Key(**{**parts, **changed})  # type: ignore[arg-type]


def _stored(store: Store, ids: tuple[str, ...], layers: int = 2, **changed: str) -> list[str]:
    return [store.write(_key(f"lm.{layer:02d}.output", **changed), pair(len(ids), seed=layer)[0], ids).key for layer in range(layers)]


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([("a",), ("b",)], ("a", "b")),
        ([("m", "m/x", "p/m"), ("m", "m/y", "p/m"), ("n",)], ("m/x", "m/y", "n")),
        ([("m", "m/x", "p/m"), ("m", "m/x", "q/m")], ("p/m", "q/m")),
        ([("m", "m/x", "/p/m/x"), ("m/x",)], ("m", "m/x")),
    ],
)
def test_labels_that_collide_become_longer(labels: list[tuple[str, ...]], chosen: tuple[str, ...]) -> None:
    x = pair(4)[0]
    assert unique_labels([Rows(x, str(i), str(i), names) for i, names in enumerate(labels)]) == chosen


def test_folders_of_one_name_and_files_of_one_folder_get_different_labels(tmp_path: Path) -> None:
    names = ("run1/pi0/feats_A.pt", "run2/pi0/feats_A.pt", "run2/pi0/pointB.pt", "run2/spatialvla/feats_A.pt")
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(pair(seed=seed)[0]), tmp_path / name)
    models = [open_rows(str(tmp_path / name), Store(tmp_path / "store")) for name in names]
    found = align(models, rows(pair()[1]), draws=NONE)
    assert [model.label for model in found.models] == ["run1/pi0", "run2/pi0", "pi0/pointB", "spatialvla"]
    assert sum(note.startswith("label ") for note in found.notes) == 3
    with pytest.raises(UsageError, match="given twice"):
        align([models[0], models[0]], rows(pair()[1]))


class TestMatching:
    def test_rows_are_matched_by_sample_id(self) -> None:
        x, y = rows(pair(3)[0], "x", ("a", "b", "c")), rows(pair(3)[1], "y", ("c", "a", "b"))
        found = match(x, y)
        assert found.x.tolist() == [0, 1, 2] and found.y.tolist() == [1, 2, 0] and "other order" in found.note

    @pytest.mark.parametrize(
        ("ids", "other", "pairs"),
        [
            (("a", "b", "c"), ("c", "x", "a"), [(0, 2), (2, 0)]),
            (("a", "b"), ("a", "b", "c"), [(0, 0), (1, 1)]),
            (("000002", "000000"), None, [(0, 2), (1, 0)]),
            (None, ("000001", "000002"), [(1, 0), (2, 1)]),
        ],
    )
    def test_other_samples_on_one_side_need_to_be_asked_for(
        self, ids: tuple[str, ...] | None, other: tuple[str, ...] | None, pairs: list[tuple[int, int]]
    ) -> None:
        x, y = rows(pair(len(ids or "abc"))[0], "left.pt", ids), rows(pair(len(other or "abc"))[1], "right.pt", other)
        with pytest.raises(UsageError, match=r"not describe the same samples(.|\n)*left.pt(.|\n)*right.pt(.|\n)*--shared"):
            match(x, y)
        found = match(x, y, shared=True)
        assert list(zip(found.x.tolist(), found.y.tolist(), strict=True)) == pairs and found.note and not found.whole

    @pytest.mark.parametrize(("ids", "other"), [(None, None), (("a", "b", "c"), None), (("a", "b", "c"), ("x", "y")), (("000007", "000008", "000009"), None)])
    def test_nothing_shared_is_refused_with_both_counts(self, ids: tuple[str, ...] | None, other: tuple[str, ...] | None) -> None:
        for shared in (False, True):
            with pytest.raises(UsageError, match=r"3 .*left.pt.*2 .*right.pt"):
                match(rows(pair(3)[0], "left.pt", ids), rows(pair(2)[1], "right.pt", other), shared=shared)

    def test_equal_ids_of_other_data_are_noted(self) -> None:
        ids = ("000000", "000001")
        assert "digests of the datasets do not" in match(rows(pair(2)[0], "x", ids, "d1"), rows(pair(2)[1], "y", ids, "d2")).note
        assert not match(rows(pair(2)[0], "x", ids, "d1"), rows(pair(2)[1], "y", ids, "d1")).note


class TestEpisodes:
    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"episode_indices": 3}', '{"episode_indices": [[1]]}'])
    def test_metadata_without_episodes_are_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "metadata.json").write_text(content, encoding="utf-8")
        with pytest.raises(DamagedError, match=r"tells no episodes(.|\n)*metadata.json"):
            read_episodes(tmp_path / "metadata.json")
        with pytest.raises(MissingError, match="no metadata file"):
            read_episodes(tmp_path / "other.json")

    def test_ids_that_are_numbers_of_rows_find_their_episode(self, tmp_path: Path) -> None:
        (tmp_path / "metadata.json").write_text('{"episode_indices": [7, 7, 3, 3, 9]}', encoding="utf-8")
        found = read_episodes(tmp_path / "metadata.json")
        assert found.count == 3
        assert found.of(5, None, "x").tolist() == found.of_row.tolist() and len(set(found.of_row[[0, 2, 4]])) == 3
        assert found.of(2, ("000004", "000001"), "x").tolist() == found.of_row[[4, 1]].tolist()
        with pytest.raises(UsageError, match=r"4 rows of x and 5 samples"):
            found.of(4, None, "x")


class TestScores:
    def test_published_values_are_the_published_formula_and_scores_the_exact_one(self) -> None:
        x, y = pair()
        found = align([rows(x)], rows(y), topk=(5, 10), metrics=("cknna", "mutual_knn"), draws=NONE).models[0]
        for k in (5, 10):
            assert found.published[f"cknna_k{k}"] == pytest.approx(dense_cknna(x, y, k, eps=1e-6), rel=1e-9)
            assert found.scores[f"cknna_k{k}"].value == pytest.approx(dense_cknna(x, y, k), rel=1e-9)
            assert found.published[f"mutual_knn_k{k}"] == found.scores[f"mutual_knn_k{k}"].value == pytest.approx(dense_mutual_knn(x, y, k), rel=1e-12)
        assert list(found.published) == ["cknna_k5", "cknna_k10", "mutual_knn_k5", "mutual_knn_k10"]

    def test_the_model_is_x_and_the_reference_y(self) -> None:
        x, y = pair(noise=0.3)
        straight, swapped = (align([rows(a)], rows(b), topk=(5,), draws=NONE).models[0].scores["cknna_k5"].value for a, b in ((x, y), (y, x)))
        assert straight == pytest.approx(dense_cknna(x, y, 5), rel=1e-9) and abs(straight - swapped) > 1e-4

    def test_neighbours_of_the_same_episode_are_left_out_beside_the_published_value(self) -> None:
        groups = np.repeat(np.arange(8), 5)
        x, y = (one + 3 * np.random.default_rng(9).normal(size=(8, one.shape[1]))[groups].astype(np.float32) for one in pair())
        known = Episodes(Path("metadata.json"), groups)
        found = align([rows(x)], rows(y), topk=(4,), metrics=("cknna", "mutual_knn", "cka"), episodes=known, draws=FEW).models[0]
        assert found.across_episodes["cknna_k4"].value == pytest.approx(dense_cknna(x, y, 4, groups=groups), rel=1e-9)
        assert found.across_episodes["mutual_knn_k4"].value == pytest.approx(dense_mutual_knn(x, y, 4, groups=groups), rel=1e-12)
        assert found.published["cknna_k4"] == pytest.approx(dense_cknna(x, y, 4, eps=1e-6), rel=1e-9)
        assert found.scores["mutual_knn_k4"].value > 0.5 > 0.3 > found.across_episodes["mutual_knn_k4"].value  # neighbours were frames of one episode
        assert list(found.across_episodes) == ["cknna_k4", "mutual_knn_k4"]  # cka has no neighbours to leave out

    def test_chance_draws_whole_episodes(self) -> None:
        groups = np.repeat(np.arange(8), 5)
        x, y = (one + 3 * np.random.default_rng(9).normal(size=(8, one.shape[1]))[groups].astype(np.float32) for one in pair())
        whole = align([rows(x)], rows(y), topk=(4,), episodes=Episodes(Path("m.json"), groups), draws=FEW).models[0].scores["cknna_k4"]
        each = align([rows(x)], rows(y), topk=(4,), draws=FEW).models[0].scores["cknna_k4"]
        assert whole.value == each.value and whole.null_low > each.null_high  # episodes in another order still are episodes
        assert whole == score(cknna, x, y, groups=groups, topk=4, permutations=9, draws=4)

    def test_few_episodes_are_said_and_rows_taken_as_independent(self) -> None:
        x, y = pair()
        groups = np.repeat(np.arange(2), 20)
        found = align([rows(x)], rows(y), topk=(4,), episodes=Episodes(Path("m.json"), groups), draws=FEW)
        assert "2 episodes are too few" in found.notes[0] and not found.models[0].across_episodes
        assert found.models[0].scores["cknna_k4"] == score(cknna, x, y, topk=4, permutations=9, draws=4)

    def test_equal_seeds_are_equal_scores(self) -> None:
        x, y = pair()
        first, again, other = (align([rows(x)], rows(y), draws=Draws(9, 4, seed)).models[0].scores["cknna_k10"] for seed in (0, 0, 1))
        assert first == again and first.value == other.value and first.null_high != other.null_high

    def test_samples_one_side_lacks_are_left_out_of_both(self) -> None:
        x, y = pair()
        ids = tuple(f"{row:06d}" for row in range(40) if row != 13)
        found = align([rows(np.delete(x, 13, 0), "m", ids), rows(x, "whole")], rows(y), topk=(5,), shared=True, draws=NONE)
        assert found.models[0].scores["cknna_k5"].value == pytest.approx(dense_cknna(np.delete(x, 13, 0), np.delete(y, 13, 0), 5), rel=1e-9)
        assert [model.scores["cknna_k5"].n for model in found.models] == [39, 40]
        assert found.models[1].scores["cknna_k5"].value == pytest.approx(dense_cknna(x, y, 5), rel=1e-9)

    @pytest.mark.parametrize("topk", [(40,), (5, 5), (0,), ()])
    def test_numbers_of_neighbours_that_do_not_fit_are_refused(self, topk: tuple[int, ...]) -> None:
        with pytest.raises(UsageError, match=r"do not fit the samples(.|\n)*of 40 samples(.|\n)*1 to 39"):
            align([rows(pair()[0])], rows(pair()[1]), topk=topk)

    @pytest.mark.parametrize(
        ("topk", "episodes", "draws", "message"),
        [
            (20, None, 4, r"half of the samples(.|\n)*at most 19 neighbours: a random half may hold 20(.|\n)*--draws 0"),
            (16, 8, 4, r"half of the samples(.|\n)*5 of them in one episode(.|\n)*at most 15 neighbours"),
            (36, 8, 0, r"do not fit the samples(.|\n)*5 of them in one episode(.|\n)*1 to 35"),
        ],
    )
    def test_a_random_half_and_the_other_episodes_must_have_the_neighbours(self, topk: int, episodes: int | None, draws: int, message: str) -> None:
        known = None if episodes is None else Episodes(Path("m.json"), np.repeat(np.arange(episodes), 40 // episodes))
        with pytest.raises(UsageError, match=message):
            align([rows(pair()[0])], rows(pair()[1]), topk=(topk,), episodes=known, draws=Draws(0, draws))
        assert align([rows(pair()[0])], rows(pair()[1]), topk=(topk - 1,), episodes=known, draws=Draws(0, draws)).models

    @pytest.mark.parametrize(
        ("metric", "message"),
        [("summary", "one feature set(.|\n)*cka"), ("wasserstein", "two samples(.|\n)*cknna"), ("cknn", "no metric named 'cknn'; the nearest is 'cknna'")],
    )
    def test_only_metrics_of_pairs_are_taken(self, metric: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            align([rows(pair()[0])], rows(pair()[1]), metrics=("cknna", metric))

    def test_no_model_is_refused(self) -> None:
        with pytest.raises(UsageError, match="no model is given"):
            align([], rows(pair()[1]))

    def test_the_json_has_the_published_keys_first_and_no_nan(self) -> None:
        found = align([rows(pair()[0], "pi0")], rows(pair()[1], "b"), topk=(5,), draws=NONE)
        told = json.loads(json.dumps(as_json(found), allow_nan=False))
        assert list(told) == ["_meta", "models"] and list(told["_meta"])[:5] == ["timestamp", "feats_B_path", "feats_B_shape", "N", "k_values"]
        assert list(told["models"]["pi0"])[:3] == ["feats_A_path", "feats_A_dim", "cknna_k5"]
        assert told["models"]["pi0"]["scores"]["cknna_k5"]["p_value"] is None
        header, table = as_table(found)
        assert [len(row) for row in table] == [len(header)]

    def test_the_figure_is_the_same_bytes_for_the_same_scores(self) -> None:
        found = align([rows(pair()[0], "pi0")], rows(pair()[1], "b"), topk=(5,), episodes=Episodes(Path("m.json"), np.repeat(np.arange(8), 5)), draws=FEW)
        assert scores_png(found) == scores_png(found) and _size(scores_png(found))[0] > 300


def _size(png: bytes) -> tuple[int, int]:
    from PIL import Image

    return Image.open(io.BytesIO(png)).size


def _model(layers: int, *, n: int = 24, seed: int = 0, ids: tuple[str, ...] | None = None, label: str = "m") -> tuple[Points, list[str], list[np.ndarray]]:
    """Points made anew for every reading, the order in which they were read, and their values."""
    made, read = [pair(n, 5 + layer, seed=seed + layer)[0] for layer in range(layers)], []

    def reader(layer: int) -> Rows:
        read.append(f"{layer}")
        return rows(made[layer].copy(), label, ids)

    return Points(label, label, {Point("lm", "output", layer): (lambda layer=layer: reader(layer)) for layer in range(layers)}), read, made


class TestLayers:
    @pytest.mark.parametrize(("name", "function", "options"), [("cknna", cknna, {"topk": 4}), ("mutual_knn", mutual_knn, {"topk": 4}), ("cka", cka, {})])
    def test_every_point_is_compared_with_every_point(self, name: str, function: Callable[..., float], options: dict[str, int]) -> None:
        (x, _, mine), (y, _, theirs) = _model(3), _model(2, seed=9)
        found = align_layers(x, y, metric=name, topk=4, draws=FEW)
        for i, a in enumerate(mine):
            for j, b in enumerate(theirs):
                assert found.scores[i][j] == pytest.approx(score(function, a, b, permutations=9, draws=4, **options), rel=1e-9)
        assert found.matrix().shape == found.matrix("p_value").shape == (3, 2) and found.widths == ((5, 6, 7), (5, 6)) and found.n == 24

    def test_each_point_is_read_once_where_all_of_the_first_model_are_held(self) -> None:
        (x, mine, _), (y, theirs, _) = _model(4), _model(3)
        align_layers(x, y, topk=4)
        assert mine == ["0", "1", "2", "3"] and theirs == ["0", "1", "2"]

    def test_with_less_memory_the_second_model_is_read_once_for_every_block(self) -> None:
        (x, mine, _), (y, theirs, _) = _model(3), _model(2)
        small = align_layers(x, y, topk=4, held=0)
        assert mine == ["0", "1", "2"] and theirs == ["0", "1"] * 3
        assert np.array_equal(small.matrix(), align_layers(x, y, topk=4).matrix())

    def test_no_more_points_are_alive_than_are_said(self) -> None:
        made: list[weakref.ref[np.ndarray]] = []
        most = [0]

        def counted(points: Points) -> Points:
            def reader(point: Point) -> Rows:
                most[0] = max(most[0], sum(values() is not None for values in made))
                found = points.read(point)
                made.append(weakref.ref(found.values))
                return found

            return Points(points.label, points.where, {point: (lambda point=point: reader(point)) for point in points.readers})

        align_layers(counted(_model(6)[0]), counted(_model(6)[0]), topk=4, held=0)
        assert most[0] == 1  # when another is read

    def test_neighbours_of_the_same_episode_are_left_out(self) -> None:
        (x, _, mine), (y, _, theirs) = _model(1), _model(1, seed=9)
        groups = np.repeat(np.arange(6), 4)
        found = align_layers(x, y, topk=4, episodes=Episodes(Path("m.json"), groups))
        assert found.matrix()[0, 0] == pytest.approx(dense_cknna(mine[0], theirs[0], 4, groups=groups), rel=1e-9)

    def test_other_samples_are_refused_and_shared_ones_taken(self) -> None:
        ids = tuple(f"s{row}" for row in range(24))
        (x, _, mine), (y, _, theirs) = _model(2, ids=ids), _model(2, ids=(*ids[3:], "t0", "t1", "t2"), seed=9)
        with pytest.raises(UsageError, match=r"3 of 24 only in m \(s0, s1, s2 …\), 3 of 24 only in m \(t0"):
            align_layers(x, y, topk=4)
        found = align_layers(x, y, topk=4, shared=True)
        assert found.n == 21 and "21 shared samples of 24 and 24" in found.notes[0]
        assert found.matrix()[1, 0] == pytest.approx(dense_cknna(mine[1][3:], theirs[0][:21], 4), rel=1e-9)

    def test_points_of_one_model_must_be_of_the_same_samples(self) -> None:
        x, y = _model(2)[0], _model(1)[0]
        mixed = Points("m", "m", {**x.readers, Point("lm", "output", 7): _model(1, n=20)[0].readers[Point("lm", "output", 0)]})
        with pytest.raises(UsageError, match=r"not taken of the same samples(.|\n)*lm.07.output: 20 rows"):
            align_layers(mixed, y, topk=4)

    def test_the_points_of_an_extraction_are_what_differs_in_nothing_else(self, tmp_path: Path) -> None:
        store, ids = Store(tmp_path / "store"), tuple("abcdefgh")
        key = _stored(store, ids, layers=3)[1]
        _stored(store, ids, layers=4, pooling="last")
        found = open_points(key, store)
        assert list(map(str, found.readers)) == ["lm.00.output", "lm.01.output", "lm.02.output"] and found.label == "mock:real"
        assert [found.read(point).values.tolist() for point in found.readers] == [pair(8, seed=layer)[0].tolist() for layer in range(3)]
        assert list(map(str, found.only((Point.parse("lm.2.output"),)).readers)) == ["lm.02.output"]
        with pytest.raises(UnknownNameError, match="no point of this extraction named 'lm.09.output'"):
            found.only((Point.parse("lm.09.output"),))

    def test_a_folder_of_points_is_an_extraction(self, tmp_path: Path) -> None:
        _points(tmp_path / "model")
        (tmp_path / "model/Pictures of it").mkdir()
        (tmp_path / "model/Pictures of it/feats_A.pt").touch()
        assert list(map(str, open_points(str(tmp_path / "model"), Store(tmp_path / "store")).readers)) == ["lm.00.output", "lm.01.output"]
        for text, kind in ((str(tmp_path), MissingError), ("no-key", UsageError)):
            with pytest.raises(kind, match="no points|no extraction"):
                open_points(text, Store(tmp_path / "store"))

    def test_json_picture_and_page_tell_the_matrix(self) -> None:
        found = align_layers(_model(3, label="<b>A</b>")[0], _model(2, label="B", seed=9)[0], topk=4, draws=FEW)
        told = json.loads(json.dumps(layers_json(found), allow_nan=False))
        assert told["rows"] == ["lm.00.output", "lm.01.output", "lm.02.output"] and told["value"] == found.matrix().tolist()
        assert told["best"]["lm.00.output"] == told["columns"][int(np.argmax(told["value"][0]))] == layers_table(found)[1][0][1]
        text = page(found, "")
        assert "<b>A</b>" not in text and "&lt;b&gt;A" in text and text.count("<td title=") == 6 and "p 0." in text
        assert layers_png(found) == layers_png(found) and _size(layers_png(found))[0] > 200

    def test_what_is_no_number_is_null_a_dash_and_never_the_highest(self) -> None:
        found = align_layers(_model(2)[0], _model(2, seed=9)[0], topk=4)
        broken = LayerMap(**{**found.__dict__, "scores": (tuple(one._replace(value=float("nan")) for one in found.scores[0]), found.scores[1])})
        told = layers_json(broken)
        assert told["value"][0] == [None, None] and told["best"]["lm.00.output"] is None and "low" not in told
        assert layers_table(broken)[1][0] == ["lm.00.output", "", ""]
        assert page(broken, "").count("–</td>") == 2 and _size(layers_png(broken))[0] > 200
