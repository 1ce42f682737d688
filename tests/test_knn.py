"""Neighbourhoods, found in blocks, against dense ones; the metrics made of them against slow oracles and published values."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import knn as slow

from harness.errors import MissingError, UsageError
from harness.metrics import _knn_table, _knn_tiles, comparison
from harness.metrics._neighbours import neighbours
from harness.metrics.cka import cka
from harness.metrics.cknna import cknna
from harness.metrics.cycle_knn import cycle_knn
from harness.metrics.edit_distance_knn import edit_distance_knn
from harness.metrics.lcs_knn import lcs_knn
from harness.metrics.mutual_knn import mutual_knn
from harness.scores import score

METRICS: Mapping[str, Callable[..., float]] = {function.__name__: function for function in (cknna, mutual_knn, cycle_knn, lcs_knn, edit_distance_knn)}
COPIED = Path(__file__).parent / "data/cknna"
SHARED = Path(__file__).resolve().parents[2] / "shared/goldens/cknna"
GOLDENS = SHARED if (SHARED / "expected.json").is_file() else COPIED
EXPECTED = json.loads((GOLDENS / "expected.json").read_text(encoding="utf-8"))["cases"]
PROPERTY = settings(deadline=None, max_examples=40)
METRIC = settings(deadline=None, max_examples=12)


def gaussian(n: int, d: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 3]).standard_normal((n, d))


def sides(n: int = 40, d: int = 6, e: int = 4, *, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and a noisy linear image of them."""
    x = gaussian(n, d, seed=seed)
    return x, x @ gaussian(d, e, seed=seed + 1) + noise * gaussian(n, e, seed=seed + 2)


def two_clusters(n: int, width: int = 64) -> np.ndarray:
    """Two far points with rows so close to them that float32 products do not tell who is nearest."""
    return np.where(np.arange(n)[:, None] % 2, 1.0, -1.0) * gaussian(1, width) + 1e-6 * gaussian(n, width, seed=1)


KINDS: Mapping[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "gaussian": lambda n, d, rng: rng.standard_normal((n, d)),
    "integers": lambda n, d, rng: rng.integers(-1, 2, (n, d)).astype(np.float64),
    "few distinct rows": lambda n, d, rng: rng.standard_normal((n, d))[rng.integers(0, max(1, n // 4), n)],
    "one direction": lambda n, d, rng: 1e-2 * rng.standard_normal((n, d)) + rng.standard_normal(d),
    "long and short rows": lambda n, d, rng: rng.standard_normal((n, d)) * 10.0 ** rng.integers(-2, 3, (n, 1)),
    "rows of zeros": lambda n, d, rng: rng.standard_normal((n, d)) * (rng.random((n, 1)) < 0.7),
    "all equal": lambda n, d, rng: np.full((n, d), 0.3),
    "one feature": lambda n, d, rng: rng.standard_normal((n, 1)),
}


# neighbours


@PROPERTY
@given(
    kind=st.sampled_from(sorted(KINDS)),
    n=st.integers(6, 30),
    d=st.integers(1, 8),
    seed=st.integers(0, 9999),
    topk=st.integers(1, 7),
    single=st.booleans(),
    normalize=st.booleans(),
    grouped=st.booleans(),
)
def test_neighbours_are_those_of_the_slow_sort_and_stay_so_in_any_selection(
    kind: str, n: int, d: int, seed: int, topk: int, single: bool, normalize: bool, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = KINDS[kind](n, d, rng).astype(np.float32 if single else np.float64)
    rows = rng.permutation(n)[: n // 2 + 2]
    groups = rng.integers(0, 5, n) if grouped else np.arange(n)
    topk = int(min(topk, len(rows) - np.bincount(groups[rows]).max(), n - np.bincount(groups).max()))
    assume(topk > 0)
    groups = groups if grouped else None
    found = neighbours(x, topk=topk, normalize=normalize, groups=groups)
    assert found.index.tolist() == slow.neighbours(x, topk, normalize=normalize, groups=groups)
    expected = np.take_along_axis(slow.similarities(x, normalize=normalize), found.index, 1)
    assert found.similarity == pytest.approx(expected, rel=1e-12, abs=1e-13 * (1 + np.abs(expected).max()))
    part = None if groups is None else groups[rows]
    taken = found.take(rows)
    assert taken.index.tolist() == slow.neighbours(x[rows], topk, normalize=normalize, groups=part)
    back = None if part is None else part[::-1]
    assert taken.take(np.arange(len(rows))[::-1]).index.tolist() == slow.neighbours(x[rows[::-1]], topk, normalize=normalize, groups=back)


@pytest.mark.parametrize("tile", [(1, 1), (7, 3), (16, 16), (64, 5), (5, 200)])
@pytest.mark.parametrize("groups", [None, np.arange(90) // 9], ids=["all", "other groups"])
def test_the_size_of_the_tiles_changes_no_bit(tile: tuple[int, int], groups: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([gaussian(60, 20), two_clusters(30, 20)]).astype(np.float32)
    whole = neighbours(x, topk=6, groups=groups)
    monkeypatch.setattr(_knn_tiles, "TILE", {"cpu": tile})
    monkeypatch.setattr(_knn_table, "STRIP", tile[0] * 40)
    monkeypatch.setattr(_knn_table, "COLUMNS", tile[1])
    found = neighbours(x, topk=6, groups=groups)
    assert (found.index == whole.index).all()
    assert found.similarity.tobytes() == whole.similarity.tobytes()


SELECTIONS = {"all": np.random.default_rng(0).permutation(300), "half": np.random.default_rng(1).permutation(300)[:150], "few": np.arange(0, 300, 7)}


@pytest.mark.parametrize("rows", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize("kind", ["gaussian", "few distinct rows", "integers"])
def test_what_is_taken_equals_what_is_found_anew_to_the_bit(kind: str, rows: np.ndarray) -> None:
    x = KINDS[kind](300, 40, np.random.default_rng(0)).astype(np.float32)
    taken, anew = neighbours(x, topk=10).take(rows), neighbours(x[rows], topk=10)
    assert (taken.index == anew.index).all()
    assert taken.similarity.tobytes() == anew.similarity.tobytes()
    assert len(taken) == len(rows)


def test_a_reordering_compares_no_rows_again_and_a_half_hardly_any(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []
    compared = _knn_table.candidates_among
    monkeypatch.setattr("harness.metrics._knn_select.candidates_among", lambda rows, left, *rest: again.append(len(left)) or compared(rows, left, *rest))
    x, order = gaussian(600, 32), np.random.default_rng(0).permutation(600)
    found = neighbours(x, topk=10)
    found.take(order)
    assert again == []
    found.take(order[:300])
    assert sum(again) <= 3
    found.take(order[:60])
    assert sum(again) > 30  # too few of the candidates are left


def test_float32_input_gives_the_order_of_float64_products() -> None:
    x = two_clusters(160).astype(np.float32)
    close = x @ x.T
    np.fill_diagonal(close, -np.inf)
    exact = slow.neighbours(x, 5, normalize=False)
    assert np.argsort(-close, axis=1, kind="stable")[:, :5].tolist() != exact
    assert neighbours(x, topk=5, normalize=False).index.tolist() == exact


def test_without_the_bound_on_float32_wrong_neighbours_would_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x = two_clusters(400)
    exact = neighbours(x, topk=2, normalize=False).index
    assert exact.tolist() == slow.neighbours(x, 2, normalize=False)
    monkeypatch.setattr(_knn_table, "margin", lambda rows, left=slice(None): np.zeros(len(rows))[left])
    assert (neighbours(x, topk=2, normalize=False).index != exact).any()


@pytest.mark.parametrize("d", [3, 100, 2048])
def test_float32_products_stay_within_the_bound(d: int) -> None:
    from harness.metrics._knn_rows import distinct_rows

    rows = distinct_rows((gaussian(64, d) * 10.0 ** gaussian(1, d) + gaussian(1, d, seed=1)).astype(np.float32), normalize=False, group=None)
    every, memory = slice(0, 64), np.empty((64, d), np.float32)
    block = _knn_tiles.centred(rows, every, "cpu", memory)
    values = rows.values(every)
    exact = (values @ values.T - rows.centre @ rows.centre) / rows.unit**2
    error = np.abs(_knn_tiles.products(rows, every, block, every, block) - exact)
    assert (error <= _knn_tiles.margin(rows)[:, None]).all()
    assert error.max() > 0


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_reduced_precision_elsewhere_in_the_process_changes_nothing(precision: str) -> None:
    x = gaussian(200, 64).astype(np.float32)
    expected = neighbours(x, topk=5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = neighbours(x, topk=5)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found.index == expected.index).all()


def test_ties_go_to_the_lower_index_in_every_order() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert neighbours(x, topk=3).index.tolist() == [[2, 4, 1], [3, 5, 0], [0, 4, 1], [1, 5, 0], [0, 2, 1], [1, 3, 0]]
    assert neighbours(x, topk=3).take(np.array([5, 4, 3, 2, 1, 0])).index.tolist() == [[2, 4, 1], [3, 5, 0], [0, 4, 1], [1, 5, 0], [0, 2, 1], [1, 3, 0]]


def test_similarities_that_differ_by_rounding_are_ties() -> None:
    third = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1], [1.0, 1.0, 1.0]])
    products = [sum(a * b for a, b in zip(third[3], row, strict=True)) for row in third[:3]]
    assert len(set(products)) > 1  # 0.1 + 0.2 + 0.3 depends on the order
    assert neighbours(third, topk=3).index[3].tolist() == [0, 1, 2]


def test_groups_leave_out_near_duplicates_of_the_same_episode() -> None:
    episode = np.arange(60) // 6
    frames = gaussian(10, 8)[episode] + 1e-3 * gaussian(60, 8, seed=1)
    assert (episode[neighbours(frames, topk=5).index] == episode[:, None]).all()
    assert (episode[neighbours(frames, topk=5, groups=episode).index] != episode[:, None]).all()
    assert (neighbours(frames, topk=5, groups=[f"episode {number}" for number in episode]).index == neighbours(frames, topk=5, groups=episode).index).all()


def test_no_array_of_n_by_n_is_made() -> None:
    x = gaussian(6000, 3)
    neighbours(x[:100], topk=5)
    tracemalloc.start()
    neighbours(x, topk=5)
    peak = tracemalloc.get_traced_memory()[1]  # numpy's memory; tiles of torch are 3 MB
    tracemalloc.stop()
    assert peak < len(x) ** 2 / 2


def test_half_precision_is_promoted() -> None:
    x = gaussian(30, 5).astype(np.float16)
    assert (neighbours(x, topk=4).index == neighbours(x.astype(np.float64), topk=4).index).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: neighbours(x, topk=40), r"topk does not fit(.|\n)*topk 40 of 40 samples(.|\n)*1 to 39"),
        (lambda x: neighbours(x, topk=0), r"topk does not fit"),
        (lambda x: neighbours(x, topk=11, groups=np.arange(40) // 30), r"30 of them in one group(.|\n)*1 to 10"),
        (lambda x: neighbours(x, topk=3, groups=np.zeros(39)), r"every row needs a group(.|\n)*39 groups"),
        (lambda x: neighbours(np.where(x > 2, np.nan, x), topk=3), r"have no neighbours(.|\n)*NaN"),
        (lambda x: neighbours(np.where(x > 2, np.inf, x), topk=3), r"have no neighbours"),
        (lambda x: neighbours(x[:0], topk=1), r"have no neighbours(.|\n)*\(0, 6\)"),
        (lambda x: neighbours(x * 1e200, topk=3), r"too long to be multiplied"),
        (lambda x: neighbours(x, topk=9).take(np.arange(9)), r"topk 9 of 9 samples"),
        (lambda x: neighbours(x, topk=3).take(np.array([1, 2, 3, 4, 5, 1])), r"rows do not select samples"),
        (lambda x: neighbours(x, topk=3).take(np.array([1, 2, 3, 4, 5, 40])), r"rows do not select samples"),
    ],
)
def test_what_has_no_neighbours_is_refused(call: Callable[[np.ndarray], object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        call(gaussian(40, 6))


def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingError, match=r"no CUDA device(.|\n)*device cpu"):
        neighbours(gaussian(9, 2), topk=2, device="cuda")
    with pytest.raises(UsageError, match=r"no such device(.|\n)*gpu0"):
        neighbours(gaussian(9, 2), topk=2, device="gpu0")


# metrics against oracles


@pytest.mark.parametrize("metric", METRICS)
@METRIC
@given(
    kind=st.sampled_from(["gaussian", "integers", "few distinct rows", "rows of zeros"]),
    n=st.integers(8, 22),
    topk=st.integers(2, 7),
    seed=st.integers(0, 9999),
    normalize=st.booleans(),
)
def test_the_metric_is_that_of_the_slow_formula(metric: str, kind: str, n: int, topk: int, seed: int, normalize: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = gaussian(n, 3, seed=seed), KINDS[kind](n, 4, rng)
    expected = getattr(slow, metric)(x, y, topk=topk, normalize=normalize)
    assert METRICS[metric](x, y, topk=topk, normalize=normalize) == pytest.approx(expected, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("options", [{"unbiased": False}, {"eps": 1e-6}, {"unbiased": False, "eps": 1e-2}, {"unbiased": False, "normalize": False}], ids=str)
@pytest.mark.parametrize("kind", ["gaussian", "few distinct rows", "integers"])
def test_the_options_of_cknna_are_those_of_the_slow_formula(kind: str, options: dict[str, object]) -> None:
    x, y = gaussian(20, 4), KINDS[kind](20, 3, np.random.default_rng(1))
    assert cknna(x, y, topk=5, **options) == pytest.approx(slow.cknna(x, y, topk=5, **options), rel=1e-9)


# Neighbours by similarity, ties to the lower index: x 12 02 30 20, y 21 30 01 10
SQUARE = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("metric", "topk", "expected"),
    [
        ("cknna", 3, -0.5),  # sums 4 and 4, no shared pair: (16 / 6 - 4) over (4 + 16 / 6 - 4)
        ("mutual_knn", 2, 5 / 8),
        ("mutual_knn", 1, 0.0),
        ("cycle_knn", 2, 3 / 4),
        ("lcs_knn", 2, 1.0),
        ("edit_distance_knn", 2, 1 / 8),  # 2 2 2 1 edits
    ],
)
def test_the_metric_by_hand(metric: str, topk: int, expected: float) -> None:
    assert METRICS[metric](*SQUARE, topk=topk) == pytest.approx(expected)


# published values

# Where the k-th and the next are equally similar, which one upstream took was up to its sorting kernel.
ON_A_TIE = {"duplicate_rows_n500": 0.01, "heavy_ties_n64": 0.3, "integer_ties_n500": 0.06, "zero_rows_n64": 0.02, "d2_is_1_n64": 0.07}
PUBLISHED: Mapping[str, tuple[str, dict[str, object]]] = {
    "cknna_unbiased": ("cknna", {"eps": 1e-6}),
    "cknna_biased": ("cknna", {"eps": 1e-6, "unbiased": False}),
    "mutual_knn": ("mutual_knn", {}),
    "cycle_knn": ("cycle_knn", {}),
    "lcs_knn": ("lcs_knn", {}),
    "edit_distance_knn": ("edit_distance_knn", {}),
}


@pytest.mark.parametrize("form", ["raw", "normalised"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", EXPECTED)
def test_the_published_values_are_reproduced(case: str, dtype: str, form: str) -> None:
    with np.load(GOLDENS / EXPECTED[case]["npz"]) as arrays:
        rows = [arrays[name].astype(dtype) for name in "AB"]
    a, b = (neighbours(side, topk=20, normalize=form == "normalised") for side in rows)
    for name, values in EXPECTED[case]["values"][f"{dtype}.{form}"].items():
        if name == "k63":
            assert cknna(*rows, topk=63, normalize=form == "normalised", eps=1e-6) == pytest.approx(values["cknna_unbiased"], abs=1e-6)
        elif name.startswith("k"):
            topk = int(name[1:])
            tied = values["boundary_ties_A"] or values["boundary_ties_B"]
            for key, (metric, options) in PUBLISHED.items():
                if key in values:  # the two of ordered lists were run in one form only; rounding may swap two of a list
                    near = (ON_A_TIE[case] if tied else 1e-6) if key in ("cknna_unbiased", "cknna_biased", "mutual_knn", "cycle_knn") else 0.3 if tied else 5e-4
                    scale = topk if key == "lcs_knn" else 1
                    assert METRICS[metric](a, b, topk=topk, **options) == pytest.approx(values[key], abs=near * scale), (key, topk)
            assert cknna(b, a, topk=topk, eps=1e-6) == pytest.approx(values["cknna_swapped"], abs=ON_A_TIE[case] if tied else 1e-6)


def test_the_copied_published_values_are_those_of_the_shared_ones() -> None:
    copied = json.loads((COPIED / "expected.json").read_text(encoding="utf-8"))["cases"]
    assert len(copied) == 4
    for case, found in copied.items():
        with np.load(COPIED / found["npz"]) as copy, np.load(GOLDENS / EXPECTED[case]["npz"]) as original:
            assert all((copy[name] == original[name]).all() for name in "AB")
        for form, values in found["values"].items():
            assert all(EXPECTED[case]["values"][form][k][key] == value for k, of in values.items() for key, value in of.items())


# what changes a value and what does not


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("change", ["rotation", "scale", "order of features", "order of samples", "length of rows"])
def test_only_the_length_of_rows_matters_and_only_unless_normalised(metric: str, normalize: bool, change: str) -> None:
    x, y = sides(60, seed=5)
    rng = np.random.default_rng(0)
    order = rng.permutation(60) if change == "order of samples" else np.arange(60)
    changed = {
        "rotation": x @ np.linalg.qr(rng.standard_normal((6, 6)))[0],
        "scale": 1e-3 * x,
        "order of features": x[:, rng.permutation(6)],
        "order of samples": x[order],
        "length of rows": x * rng.uniform(0.1, 10, (60, 1)),
    }[change]
    before, after = (METRICS[metric](*both, topk=6, normalize=normalize) for both in ((x, y), (changed, y[order])))
    assert (after == pytest.approx(before, rel=1e-9)) is (normalize or change != "length of rows")


def test_a_shift_changes_cknna_and_eps_makes_it_depend_on_scale() -> None:
    x, y = sides(60)
    assert cknna(x + 1, y) != pytest.approx(cknna(x, y), rel=1e-3)
    assert cknna(1e-4 * x, y, normalize=False, eps=1e-6) < 0.9 * cknna(x, y, normalize=False, eps=1e-6)


@pytest.mark.parametrize("metric", ["cknna", "cycle_knn"])
def test_the_order_of_the_two_matters(metric: str) -> None:
    x, y = sides(60, noise=2.0, seed=1)
    assert METRICS[metric](x, y, topk=3) != pytest.approx(METRICS[metric](y, x, topk=3), rel=1e-6)


@pytest.mark.parametrize("metric", ["mutual_knn", "lcs_knn", "edit_distance_knn"])
def test_the_order_of_the_two_does_not_matter(metric: str) -> None:
    x, y = sides(60)
    assert METRICS[metric](x, y) == pytest.approx(METRICS[metric](y, x))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_identical_features_score_what_the_mark_says(metric: str, normalize: bool) -> None:
    x = gaussian(100, 12)
    value = METRICS[metric](x, x.copy(), normalize=normalize)
    if metric == "cycle_knn":  # a row may be near to none of the rows that are nearest to it
        assert value <= 1 and 0.5 < cycle_knn(gaussian(200, 100), gaussian(200, 100), topk=2, normalize=normalize) < 1
    else:
        assert value == pytest.approx(comparison(METRICS[metric]).identical, abs=1e-12)


def test_all_neighbours_make_cknna_the_debiased_cka() -> None:
    x, y = sides(30)
    assert cknna(x, y, topk=29, normalize=False) == pytest.approx(cka(x, y), rel=1e-12)


def test_small_negative_values_are_kept() -> None:
    values = [cknna(gaussian(30, 20, seed=seed), gaussian(30, 20, seed=seed + 500), topk=3) for seed in range(60)]
    assert min(values) < 0
    assert np.mean(values) == pytest.approx(3 / 29, rel=0.5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x, y: cknna(x, y, topk=1), r"topk does not fit(.|\n)*2 to 39"),
        (lambda x, y: cknna(x, y, topk=40), r"topk does not fit(.|\n)*1 to 39"),
        (lambda x, y: cknna(x[:3], y[:3], topk=2), r"too few samples(.|\n)*3 rows"),
        (lambda x, y: cknna(np.zeros_like(x), y), r"x has no alignment with itself"),
        (lambda x, y: cknna(x, np.where(y > 1, np.nan, y)), r"y holds NaN"),
        (lambda x, y: mutual_knn(x, y, topk=40), r"topk does not fit"),
        (lambda x, y: mutual_knn(neighbours(x, topk=5), y[:-1]), r"do not describe the same samples(.|\n)*40 and 39"),
        (lambda x, y: mutual_knn(neighbours(x, topk=5), y, topk=6), r"neighbours of x are too few(.|\n)*1 to 5"),
        (lambda x, y: cycle_knn(x, y, topk=0), r"topk does not fit"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[np.ndarray, np.ndarray], object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        call(*sides())


# what scores and align rely on


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_stand_for_the_rows_they_were_found_in(metric: str) -> None:
    x, y = sides()
    prepare = comparison(METRICS[metric]).prepare
    a, b = prepare(x, topk=12), prepare(y, topk=7)
    assert METRICS[metric](a, b, topk=5) == METRICS[metric](x, y, topk=5) == METRICS[metric](x, b, topk=5)


def test_all_metrics_share_one_preparation_that_takes_their_options() -> None:
    prepares = {comparison(function).prepare for function in METRICS.values()}
    assert len(prepares) == 1
    taken = set(signature(prepares.pop()).parameters)
    assert taken >= {"groups", "device"} | {name for function in METRICS.values() for name in signature(function).parameters} - {"y"}


def test_a_score_lies_above_its_null_band_only_where_there_is_something_shared() -> None:
    x, y = sides(80)
    found = score(cknna, x, y, topk=5, permutations=60, draws=20, groups=np.arange(80) // 4)
    assert found.low < found.value < found.high and found.value > found.null_high and found.p_value == pytest.approx(1 / 61)
    chance = score(cknna, x, gaussian(80, 4, seed=77), topk=5, permutations=60, draws=2)
    assert chance.null_low <= chance.value <= chance.null_high
