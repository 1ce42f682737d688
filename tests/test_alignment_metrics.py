"""Kernel and linear alignment, and the spectrum, against slow oracles, published values, cases by hand and invariances."""

from __future__ import annotations

import json
import math
import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import alignment as slow
from scipy.spatial.distance import pdist
from sklearn.cross_decomposition import CCA

from harness.errors import UsageError
from harness.metrics import _gram, comparison
from harness.metrics.cka import cka
from harness.metrics.correlation_structure import correlation_structure
from harness.metrics.cosine import cosine
from harness.metrics.dead_features import dead_features
from harness.metrics.effective_rank import effective_rank
from harness.metrics.outlier_features import outlier_features
from harness.metrics.procrustes import procrustes
from harness.metrics.svcca import svcca
from harness.scores import score

GOLDENS = Path(__file__).resolve().parents[2] / "shared/goldens/cknna"
CASES = (
    "base_n64 base_n500 base_n2000 same_dim_n500 big_scale_offset_n500 duplicate_rows_n500 heavy_ties_n64 integer_ties_n500 "
    "constant_columns_n500 zero_rows_n64 identical_n500 rotated_n500 independent_n500 d2_is_1_n64"
).split()
PROPERTY = settings(deadline=None, max_examples=8)
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
Value = Callable[[np.ndarray, np.ndarray], float]


def sides(n: int = 24, d: int = 5, e: int = 4, *, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of different sizes and means, and a noisy linear image of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * rng.uniform(0.3, 3, d) + rng.standard_normal(d)
    return x, x @ rng.standard_normal((d, e)) + noise * rng.standard_normal((n, e)) + 1


def rotation(width: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((width, width)))[0]


def golden(case: str, dtype: str, form: str) -> tuple[np.ndarray, np.ndarray, Mapping[str, object]]:
    if not (GOLDENS / "expected.json").is_file():
        pytest.skip("goldens/cknna are not on this machine")
    found = json.loads((GOLDENS / "expected.json").read_text(encoding="utf-8"))["cases"][case]
    with np.load(GOLDENS / found["npz"]) as arrays:
        a, b = (arrays[name].astype(dtype) for name in "AB")
    if form == "normalised":
        a, b = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (a, b))
    return a, b, found["values"][f"{dtype}.{form}"]


# published values

PUBLISHED: Mapping[str, dict[str, object]] = {
    "cka_linear": {"debiased": False},
    "unbiased_cka": {},
    "cka_rbf_sigma1": {"kernel": "rbf", "debiased": False},
    "unbiased_cka_rbf_sigma1": {"kernel": "rbf"},
}


@pytest.mark.parametrize("form", ["raw", "normalised"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_cka_gives_the_published_values(case: str, dtype: str, form: str) -> None:
    a, b, values = golden(case, dtype, form)
    for name, options in PUBLISHED.items():
        # Upstream sums in the dtype given; its float32 distances far from the origin are off by more.
        loose = 5e-3 if (case, form, name) == ("big_scale_offset_n500", "raw", "cka_rbf_sigma1") else 1e-5
        tolerance = {"rel": 1e-9, "abs": 1e-13} if dtype == "float64" else {"rel": 0.0, "abs": loose}
        assert cka(a, b, eps=1e-6, **options) == pytest.approx(values[name], **tolerance), name


@pytest.mark.parametrize("form", ["raw", "normalised"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in {"integer_ties_n500", "d2_is_1_n64"}])
def test_svcca_is_near_the_published_value_of_a_random_decomposition(case: str, form: str) -> None:
    a, b, values = golden(case, "float32", form)
    # Upstream's random decomposition moves by 0.13 between seeds on constant_columns_n500, by 0.16 on rotated_n500.
    assert svcca(a, b, dim=5).value == pytest.approx(values["svcca_dim5"], abs=0.1)


@pytest.mark.parametrize("case", ["integer_ties_n500", "d2_is_1_n64"])
def test_svcca_refuses_more_directions_than_features_as_upstream_does(case: str) -> None:
    a, b, _ = golden(case, "float32", "raw")
    with pytest.raises(UsageError, match=rf"fewer directions(.|\n)*rank {b.shape[1]} of(.|\n)*dim={b.shape[1]}"):
        svcca(a, b, dim=5)


# slow oracles

KERNELS = (("linear", 1.0), ("rbf", 2.0), ("rbf", None))
OPTIONS = [{"kernel": kernel, "debiased": debiased, "sigma": sigma} for kernel, sigma in KERNELS for debiased in (True, False)]
SHAPES = [(24, 5, 4), (12, 40, 3), (9, 20, 30), (4, 2, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_cka_is_that_of_the_dense_matrices(options: dict[str, object], shape: tuple[int, int, int]) -> None:
    x, y = sides(*shape)
    assert cka(x, y, **options) == pytest.approx(slow.cka(x, y, **options), rel=1e-9, abs=1e-12)
    assert cka(x, y, eps=0.5, **options) == pytest.approx(slow.cka(x, y, eps=0.5, **options), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("dim", [1, 3])
def test_svcca_is_that_of_the_covariances(dim: int, standardise: bool) -> None:
    x, y = sides(40, 6, 5)
    assert svcca(x, y, dim=dim, standardise=standardise).value == pytest.approx(slow.svcca(x, y, dim=dim, standardise=standardise), abs=1e-9)


def test_svcca_is_that_of_sklearn_on_the_exact_directions() -> None:
    x, y = sides(80, 6, 5, noise=4.0)
    bases = [np.linalg.svd((side - side.mean(0)) / side.std(0), full_matrices=False)[0][:, :3] for side in (x, y)]
    scores = CCA(n_components=3, tol=1e-10, max_iter=5000).fit(*bases).transform(*bases)
    expected = np.mean([np.corrcoef(scores[0][:, i], scores[1][:, i])[0, 1] for i in range(3)])
    assert svcca(x, y, dim=3).value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_procrustes_is_what_scipys_rotation_leaves(shape: tuple[int, int, int]) -> None:
    x, y = sides(*shape)
    assert tuple(procrustes(x, y)) == pytest.approx(slow.procrustes(x, y), abs=1e-10)


def test_cosine_is_that_of_scipy_row_by_row() -> None:
    x, y = sides(30, 5, 5)
    expected = slow.cosines(x, y)
    found = cosine(x, y)
    assert (found.value, found.least, found.at, found.zero) == (pytest.approx(np.mean(expected)), pytest.approx(min(expected)), int(np.argmin(expected)), 0)
    assert (found.q05, found.q50, found.q95) == pytest.approx(tuple(np.quantile(expected, (0.05, 0.5, 0.95))))


@pytest.mark.parametrize("block", [2, 3, 512])
@pytest.mark.parametrize("shape", [(24, 7, 7), (5, 20, 20)], ids=str)
def test_correlation_structure_is_that_of_scipy_pair_by_pair(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], block: int) -> None:
    monkeypatch.setitem(unwrap(correlation_structure).__globals__, "BLOCK", block)
    x, y = sides(*shape, noise=2.0)
    y = np.concatenate([y, y[:3] + 1])
    y[:, 1] = 2.5
    assert correlation_structure(x, y) == (pytest.approx(slow.correlation_structure(x, y), abs=1e-10), 1)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", [(24, 5), (5, 24)], ids=str)
def test_effective_rank_is_that_of_scipys_singular_values(shape: tuple[int, int], centred: bool) -> None:
    x = sides(*shape)[0]
    assert tuple(effective_rank(x, centred=centred)) == pytest.approx(slow.effective_rank(x, centred=centred), rel=1e-9)


@PROPERTY
@given(seed=st.integers(0, 999), threshold=st.sampled_from([0.0, 1.0, 2.0]))
def test_dead_features_are_those_of_the_slow_loop(seed: int, threshold: float) -> None:
    x = np.random.default_rng(seed).integers(-2, 3, (3, 12)).astype(np.float32)
    found, (constant, inactive) = dead_features(x, threshold=threshold), slow.dead_features(x.tolist(), threshold=threshold)
    assert (list(found.constant), list(found.inactive)) == (constant, inactive)
    assert (found.value, found.share) == (len({*constant, *inactive}), len({*constant, *inactive}) / 12)


@PROPERTY
@given(seed=st.integers(0, 999), magnitude=st.sampled_from([0.0, 3.0, 20.0]), ratio=st.sampled_from([0.0, 3.0, 12.0]))
def test_outliers_are_those_of_the_slow_loop(seed: int, magnitude: float, ratio: float) -> None:
    x = np.round(np.random.default_rng(seed).standard_cauchy((9, 7)) * 2).clip(-1e4, 1e4)
    found = outlier_features(x, magnitude=magnitude, ratio=ratio, share=0.3, top=63)
    expected = slow.massive(x.tolist(), magnitude=magnitude, ratio=ratio)
    assert found.value == len(expected)
    assert [entry[:3] for entry in found.entries[: len(expected)]] == expected
    assert {channel.channel for channel in found.channels} == slow.systematic(x.tolist(), outlier=6.0, share=0.3)


# by hand


def test_cka_by_hand() -> None:
    x, y = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [0.0], [1.0]])
    assert cka(x, y, debiased=False) == pytest.approx(0.0, abs=1e-15)  # the centred columns are orthogonal
    # Centred, k is 1/4 for the pairs 01 and 23 and else -1/4, l so for 02 and 13; U-centred they are 1/3 and -1/6. The products over
    # ordered pairs sum to 8 (-1/18) + 4/36 = -1/3, those of each with itself to 4/9 + 8/36 = 2/3.
    assert cka(x, y) == pytest.approx(-0.5)


def test_svcca_by_hand() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    y = np.array([[1.0], [-1.0], [1.0], [-1.0], [0.0], [0.0]])
    found = svcca(x, y, dim=0.99)  # y is the sum of the two columns of x
    assert found == (pytest.approx(1.0), (pytest.approx(1.0),), pytest.approx(1.0), pytest.approx(1.0))
    assert svcca(x[:, :1], y, dim=1).value == pytest.approx(math.sqrt(0.5))


def test_a_share_of_variance_takes_as_many_directions_as_hold_it() -> None:
    x = np.kron([[1.0], [-1.0]], np.diag([3.0, 2.0, 1.0]))  # variances 9, 4 and 1 of 14
    x = np.concatenate([x, np.zeros((3, 3))])
    for share, count, kept in ((0.5, 1, 9 / 14), (9 / 14, 1, 9 / 14), (0.65, 2, 13 / 14), (0.95, 3, 1.0), (1.0, 3, 1.0)):
        found = svcca(x, x, dim=share, standardise=False)
        assert (len(found.correlations), found.kept_x) == (count, pytest.approx(kept)), share


def test_procrustes_by_hand() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert procrustes(x, x[:, :1]) == (pytest.approx(math.sqrt(0.5)), pytest.approx(0.5))  # norms 2 and sqrt(2), product 2


def test_cosine_by_hand() -> None:
    x = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    y = np.array([[5.0, 0.0], [3.0, 0.0], [-3.0, -4.0], [0.0, 0.0], [1.0, 0.0]])
    assert cosine(x, y) == pytest.approx((0.2, -0.8, 0.0, 1.0, -1.0, 2, 2))  # 1, 0, -1, both zero 1, one zero 0


def test_correlation_structure_by_hand() -> None:
    # Four rows of +-1: orthogonal columns a and b, and c = a + b, so that corr is 0 for ab and sqrt(1/2) for ac and bc.
    a, b = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
    x = np.stack([a, b, a + b], 1)
    assert correlation_structure(x, x) == (pytest.approx(1.0), 0)
    assert correlation_structure(x, x[:, [0, 2, 1]]) == (pytest.approx(-0.5), 0)  # (0, s, s) against (s, 0, s)


def test_effective_rank_by_hand() -> None:
    # Singular values 4, 2, 2 are shares 1/2, 1/4, 1/4: entropy 1.5 ln 2. Squares 16, 4, 4.
    found = effective_rank(np.diag([4.0, 2.0, 2.0]), centred=False)
    assert tuple(found) == pytest.approx((2**1.5, 24**2 / 288, 1.5, 2 / 3))


def test_dead_features_by_hand() -> None:
    x = np.array([[0.0, 5.0, 0.1, 1.0], [0.0, 5.0, -0.2, 2.0]])
    assert dead_features(x) == (2.0, 0.5, (0, 1), (0,))
    assert dead_features(x, threshold=0.2) == (3.0, 0.75, (0, 1), (0, 2))


def test_outliers_by_hand() -> None:
    x = np.full((20, 4), 0.1)
    x[3, 2], x[7, 1], x[8, 1] = -150.0, 101.0, 99.0
    x[:, 0] = 7.0
    found = outlier_features(x, top=4)
    assert found.value == 2.0
    assert found.median == pytest.approx(0.1)
    assert [entry[:3] for entry in found.entries] == [(3, 2, -150.0), (7, 1, 101.0), (8, 1, 99.0), (0, 0, 7.0)]
    assert found.entries[0].ratio == pytest.approx(1500)
    assert found.channels == ((0, 1.0, 7.0), (1, 0.1, 101.0))  # channel 2 is large in 5 % of the rows only
    assert [[channel.channel for channel in outlier_features(x, share=share).channels] for share in (0.1, 0.11)] == [[0, 1], [0]]


def test_where_most_entries_are_zero_the_ratio_is_infinite() -> None:
    x = np.zeros((4, 4))
    x[1, 2] = 101.0
    found = outlier_features(x, top=1)
    assert (found.value, found.entries, found.median) == (1.0, ((1, 2, 101.0, math.inf),), 0.0)


# invariances

PAIRS: Mapping[str, Value] = {
    "cka": cka,
    "biased cka": lambda x, y: cka(x, y, debiased=False),
    "rbf cka": lambda x, y: cka(x, y, kernel="rbf", sigma=2.0),
    "rbf cka of the median": lambda x, y: cka(x, y, kernel="rbf", sigma=None),
    "svcca": lambda x, y: svcca(x, y, dim=2).value,
    "svcca unscaled": lambda x, y: svcca(x, y, dim=2, standardise=False).value,
    "procrustes": lambda x, y: procrustes(x, y).value,
    "cosine": lambda x, y: cosine(x, y).value,
    "correlation_structure": lambda x, y: correlation_structure(x, y).value,
}
CHANGES: Mapping[str, Change] = {
    "samples of both reordered": lambda x, y, rng: (lambda order: (x[order], y[order]))(rng.permutation(len(x))),
    "samples of y reordered": lambda x, y, rng: (x, y[rng.permutation(len(y))]),
    "features of y reordered": lambda x, y, rng: (x, np.roll(y, 1, axis=1)),
    "features of both reordered": lambda x, y, rng: (lambda order: (x[:, order], y[:, order]))(rng.permutation(x.shape[1])),
    "y rotated": lambda x, y, rng: (x, y @ rotation(y.shape[1], rng)),
    "both rotated alike": lambda x, y, rng: (lambda turn: (x @ turn, y @ turn))(rotation(x.shape[1], rng)),
    "y scaled": lambda x, y, rng: (x, 3 * y),
    "features of y scaled": lambda x, y, rng: (x, y * np.geomspace(0.2, 5, y.shape[1])),
    "y shifted": lambda x, y, rng: (x, y + rng.uniform(2, 4, y.shape[1])),
    "swapped": lambda x, y, rng: (y, x),
}
EVERYWHERE = {"samples of both reordered", "features of both reordered", "swapped"}
OF_KERNELS = EVERYWHERE | {"features of y reordered", "y rotated", "both rotated alike", "y shifted"}
KEPT: Mapping[str, set[str]] = {
    "cka": OF_KERNELS | {"y scaled"},
    "biased cka": OF_KERNELS | {"y scaled"},
    "rbf cka": OF_KERNELS,
    "rbf cka of the median": OF_KERNELS | {"y scaled"},
    "svcca": EVERYWHERE | {"features of y reordered", "y scaled", "features of y scaled", "y shifted"},
    "svcca unscaled": OF_KERNELS | {"y scaled"},
    "procrustes": OF_KERNELS | {"y scaled"},
    "cosine": EVERYWHERE | {"both rotated alike", "y scaled"},
    "correlation_structure": EVERYWHERE | {"samples of y reordered", "y scaled", "features of y scaled", "y shifted"},
}


@pytest.mark.parametrize(("metric", "change"), [(metric, change) for metric in PAIRS for change in CHANGES])
@PROPERTY
@given(seed=st.integers(0, 9999))
def test_what_the_definition_does_not_see_changes_nothing_and_the_rest_does(metric: str, change: str, seed: int) -> None:
    x, y = sides(24, 5, 5, noise=1.0, seed=seed)
    before, after = PAIRS[metric](x, y), PAIRS[metric](*CHANGES[change](x, y, np.random.default_rng(seed)))
    assert (abs(after - before) < 1e-9) == (change in KEPT[metric])


@pytest.mark.parametrize("metric", PAIRS)
def test_a_set_and_itself_give_the_value_that_the_metric_names(metric: str) -> None:
    x = sides(24, 5)[0]
    others = {"cosine": cosine, "correlation_structure": correlation_structure, "procrustes": procrustes}
    marked = comparison(others.get(metric, svcca if "svcca" in metric else cka))
    assert marked is not None
    assert PAIRS[metric](x, x) == pytest.approx(marked.identical, abs=1e-12)
    assert marked.closer == "higher"
    assert marked.kind == ("two_sample" if metric == "correlation_structure" else "paired")


@pytest.mark.parametrize("metric", [metric for metric in PAIRS if metric not in {"cosine", "correlation_structure"}])
def test_widths_may_differ(metric: str) -> None:
    x, y = sides(24, 5, 3)
    assert PAIRS[metric](x, y) == pytest.approx(PAIRS[metric](y, x))


def test_every_linear_image_has_the_same_canonical_directions() -> None:
    x, _ = sides(40, 5)
    assert svcca(x, x @ np.random.default_rng(1).standard_normal((5, 5)), dim=5).value == pytest.approx(1.0)


SPECTRA: Mapping[str, Value] = {
    "effective rank": lambda x, _: effective_rank(x).value,
    "effective rank of the source": lambda x, _: effective_rank(x, centred=False).value,
    "participation": lambda x, _: effective_rank(x).participation,
    "stable": lambda x, _: effective_rank(x).stable,
}


@pytest.mark.parametrize("metric", SPECTRA)
@pytest.mark.parametrize("change", ["samples of y reordered", "features of y reordered", "y rotated", "y scaled", "features of y scaled", "y shifted"])
def test_the_spectrum_sees_the_scale_of_single_features_only(metric: str, change: str) -> None:
    x = sides(24, 5)[0]
    _, changed = CHANGES[change](x, x, np.random.default_rng(0))
    seen = change == "features of y scaled" or (change == "y shifted" and metric == "effective rank of the source")
    assert (abs(SPECTRA[metric](changed, x) - SPECTRA[metric](x, x)) > 1e-9) == seen


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_directions_count_one_each(rank: int) -> None:
    x = np.kron([[1.0], [-1.0]], np.eye(12)[:rank])
    assert tuple(effective_rank(x)) == pytest.approx((rank, rank, rank, 1 / rank))


# what is computed how


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("shape", [(60, 5, 4), (60, 5, 200), (20, 90, 30)], ids=str)
def test_prepared_sides_in_another_order_or_in_part_give_what_the_arrays_give(options: dict[str, object], shape: tuple[int, int, int]) -> None:
    x, y = sides(*shape)
    options = {**options, "sigma": 20.0}
    prepare = comparison(cka).prepare
    kept, rng = (prepare(x, **options), prepare(y, **options)), np.random.default_rng(0)
    order, half = rng.permutation(len(x)), rng.choice(len(x), len(x) // 2, replace=False)
    assert cka(kept[0], kept[1].take(order), **options) == pytest.approx(cka(x, y[order], **options), rel=1e-9, abs=1e-12)
    assert cka(kept[0].take(half), kept[1].take(half), **options) == pytest.approx(cka(x[half], y[half], **options), rel=1e-9, abs=1e-12)
    assert cka(x, kept[1], **options) == pytest.approx(cka(x, y, **options), rel=1e-9, abs=1e-12)


def test_prepared_directions_in_another_order_or_in_part_give_what_the_arrays_give() -> None:
    x, y = sides(60, 8, 6)
    a, b = (comparison(svcca).prepare(side, dim=2) for side in (x, y))
    order, half = np.random.default_rng(0).permutation(60), np.arange(0, 60, 2)
    assert svcca(a, b.take(order), dim=2).value == pytest.approx(svcca(x, y[order], dim=2).value, abs=1e-10)
    assert svcca(a.take(half), b.take(half), dim=2).value == pytest.approx(svcca(x[half], y[half], dim=2).value, abs=1e-10)


def test_the_median_bandwidth_of_a_part_is_that_of_the_whole() -> None:
    x, y = sides(60, 5, 4)
    a, b = (comparison(cka).prepare(side, kernel="rbf", sigma=None) for side in (x, y))
    half = np.argsort(np.linalg.norm(x, axis=1))[:30]
    assert a.take(half).sigma == a.sigma
    assert cka(a.take(half), b.take(half), kernel="rbf", sigma=None) != pytest.approx(cka(x[half], y[half], kernel="rbf", sigma=None), rel=1e-3)


@pytest.mark.parametrize("metric", [cka, svcca, procrustes, cosine, correlation_structure], ids=lambda metric: metric.__name__)
def test_a_score_takes_each_of_them(metric: Callable[..., object]) -> None:
    x, y = sides(60, 4, 4, noise=0.1)
    x = y + 0.2 * x
    options = {"dim": 2} if metric is svcca else {}
    found = score(metric, x, y, permutations=19, draws=9, **options)
    assert found.value == pytest.approx(getattr(metric(x, y, **options), "value", cka(x, y)))
    assert found.low < found.value < found.high
    assert metric is correlation_structure or (found.p_value, found.null_high < found.value) == (0.05, True)


def test_the_median_bandwidth_leaves_equal_rows_out_and_looks_at_a_thousand_rows_at_most() -> None:
    x = np.random.default_rng(0).standard_normal((40, 3))
    x[:30] = x[0]
    assert _gram.gram(x, "rbf", None).sigma == pytest.approx(np.median([distance for distance in pdist(x) if distance > 0]))
    many = np.random.default_rng(0).standard_normal((2500, 3))
    assert _gram.gram(many, "rbf", None).sigma == pytest.approx(np.median(pdist(many)), rel=0.03)
    assert extra_memory(lambda: _gram.gram(many, "rbf", None)) < 8 * len(many) ** 2


def test_rows_of_a_prepared_side_are_taken_once() -> None:
    with pytest.raises(UsageError, match=r"taken once each(.|\n)*1 rows again"):
        comparison(cka).prepare(sides()[0]).take(np.array([0, 1, 1, 2, 3]))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_the_size_of_blocks_and_stored_matrices_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], shape: tuple[int, int, int]
) -> None:
    x, y = sides(*shape)
    expected = cka(x, y, **options)
    for name, size in (("BLOCK", 7), ("WHOLE", 0), ("ENTRIES", 1)):
        monkeypatch.setattr(_gram, name, size)
        kept = comparison(cka).prepare(x, **options)
        assert cka(x, y, **options) == pytest.approx(expected, rel=1e-9)
        assert cka(kept, y, **options) == pytest.approx(expected, rel=1e-9)


def extra_memory(call: Callable[[], object]) -> int:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_holds_a_kernel_matrix_only_where_that_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((3000, 3))
    monkeypatch.setattr(_gram, "ENTRIES", 2**19)
    whole, prepare = 8 * len(x) ** 2, comparison(cka).prepare
    for kernel in ("linear", "rbf"):
        assert extra_memory(lambda: cka(x, x, kernel=kernel, sigma=None)) < 0.5 * whole
        assert extra_memory(lambda: prepare(x, kernel=kernel)) < 0.5 * whole
    monkeypatch.setattr(_gram, "WHOLE", len(x))
    assert extra_memory(lambda: prepare(x, kernel="rbf")) > whole


def test_correlations_are_held_a_block_at_a_time() -> None:
    x = np.random.default_rng(0).standard_normal((4, 2000))
    assert extra_memory(lambda: correlation_structure(x, x + x**2)) < 8 * x.shape[1] ** 2 * 0.6
    assert extra_memory(lambda: np.corrcoef(x.T)) > 8 * x.shape[1] ** 2


def test_wide_rows_are_turned_into_as_few_columns_as_there_are_rows() -> None:
    x = np.random.default_rng(0).standard_normal((5, 1500))
    assert extra_memory(lambda: procrustes(x, x + x**2)) < 8 * x.shape[1] ** 2 / 4


def test_a_wide_bandwidth_gives_the_linear_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sides(60, 5, 4)
    assert cka(x, y, kernel="rbf", sigma=1e5) == pytest.approx(cka(x, y), abs=1e-7)
    monkeypatch.setattr(_gram, "replace", lambda found, **_: found)  # without the shift only rounding is left
    with pytest.raises(UsageError, match="tells no two samples apart"):
        cka(x, y, kernel="rbf", sigma=1e5)


@pytest.mark.parametrize("metric", PAIRS)
def test_half_precision_is_promoted(metric: str) -> None:
    x, y = (side.astype(np.float16) for side in sides(24, 5, 5))
    assert PAIRS[metric](x, y) == PAIRS[metric](x.astype(np.float64), y.astype(np.float64))


@pytest.mark.parametrize("metric", [metric for metric in PAIRS if metric != "cosine"])
def test_a_large_mean_costs_no_digits(metric: str) -> None:
    x, y = sides(24, 5, 5)
    assert PAIRS[metric](x + 1e6, y - 1e6) == pytest.approx(PAIRS[metric](x, y), abs=1e-7)


# what the numbers mean


def test_independent_features_are_at_zero_debiased_and_far_above_it_otherwise() -> None:
    def over_seeds(debiased: bool) -> np.ndarray:
        rngs = [np.random.default_rng(seed) for seed in range(300)]
        return np.array([cka(rng.standard_normal((12, 30)), rng.standard_normal((12, 20)), debiased=debiased) for rng in rngs])

    found = over_seeds(True)
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(len(found))
    assert found.std() < 0.2
    assert over_seeds(False).mean() > 0.6


def test_a_permutation_of_units_is_seen_although_every_unit_keeps_its_distribution() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((12, 12))
    x, again = rng.standard_normal((2000, 12)) @ mixing, rng.standard_normal((2000, 12)) @ mixing
    assert correlation_structure(x, again).value > 0.95
    assert abs(correlation_structure(x, again[:, rng.permutation(12)]).value) < 0.5


def test_constant_columns_change_no_alignment() -> None:
    x, y = sides(24, 5, 4)
    widened = np.insert(x, [0, 3], 0.1, axis=1)
    for metric in ("cka", "rbf cka", "svcca", "procrustes"):
        assert PAIRS[metric](widened, y) == pytest.approx(PAIRS[metric](x, y), abs=1e-12), metric


def test_a_repeated_column_lowers_the_rank_and_is_told() -> None:
    x, y = sides(40, 3, 4)
    with pytest.raises(UsageError, match=r"rank 3 of 5 features in 40 rows(.|\n)*dim=3"):
        svcca(x[:, [0, 1, 2, 0, 1]], y, dim=4)
    assert svcca(x[:, [0, 1, 2, 0, 1]], x, dim=3).value == pytest.approx(1.0)


def test_more_directions_than_samples_would_make_strangers_agree() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 30)), rng.standard_normal((12, 30))
    assert svcca(x, y, dim=5).value < 0.95
    with pytest.raises(UsageError, match=r"correlated whatever they are(.|\n)*6 and 6 directions of 12 rows(.|\n)*more than 12"):
        svcca(x, y, dim=6)
    assert slow.svcca(x, y, dim=11) == pytest.approx(1.0, abs=1e-3)


def test_an_eps_lets_the_scale_in_and_none_keeps_it_out() -> None:
    x, y = sides(24, 5, 4)
    assert cka(1e-4 * x, y) == pytest.approx(cka(x, y))
    assert cka(1e-4 * x, 1e-4 * y, eps=1e-6) < 0.1 * cka(x, y)


def test_a_bandwidth_far_below_the_distances_is_zero_with_eps_as_published_and_refused_without() -> None:
    x, y = sides(24, 5, 4)
    assert cka(x, y, kernel="rbf", sigma=1e-3, eps=1e-6) == 0.0
    with pytest.raises(UsageError, match=r"kernel of x tells no two samples apart(.|\n)*sigma=None"):
        cka(x, y, kernel="rbf", sigma=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_what_rounding_leaves_of_a_kernel_is_no_structure(seed: int) -> None:
    with pytest.raises(UsageError, match="kernel of x tells no two samples apart"):
        cka(rotation(24, np.random.default_rng(seed)), sides()[1])  # orthonormal rows: the kernel is the identity


# errors

X, Y = sides(24, 5, 4)
REFUSED: Mapping[str, tuple[Callable[[], object], str]] = {
    "three rows": (lambda: cka(X[:3], Y[:3]), r"too few samples(.|\n)*3 rows(.|\n)*at least 4"),
    "one row": (lambda: cka(X[:1], Y[:1], debiased=False), r"cannot be compared(.|\n)*at least 2"),
    "a NaN": (lambda: cka(np.where(X > 3, np.nan, X), Y), "x holds NaN or infinity"),
    "equal rows": (lambda: cka(X, np.full((24, 3), 0.1)), r"all rows are equal(.|\n)*3 constant columns"),
    "equal rows, rbf": (lambda: cka(np.full((24, 3), 0.1), Y, kernel="rbf"), "all rows are equal"),
    "orthogonal rows": (lambda: cka(np.eye(24), Y), "kernel of x tells no two samples apart"),
    "a kernel that does not exist": (lambda: cka(X, Y, kernel="rbg"), r"no kernel named 'rbg'; the nearest is 'rbf'"),
    "no bandwidth": (lambda: cka(X, Y, kernel="rbf", sigma=0.0), r"no length(.|\n)*sigma 0\.0"),
    "other samples": (lambda: unwrap(cka)(X, Y[:20]), r"same samples(.|\n)*24 and 20 rows"),
    "other prepared samples": (lambda: cka(comparison(cka).prepare(X), comparison(cka).prepare(Y[:20])), r"same samples(.|\n)*24 and 20 rows"),
    "no direction": (lambda: svcca(X, Y, dim=0), r"no number of directions(.|\n)*dim 0"),
    "a share above one": (lambda: svcca(X, Y, dim=1.5), r"no number of directions(.|\n)*share of variance"),
    "a share of zero": (lambda: svcca(X, Y, dim=0.0), "no number of directions"),
    "true for a number": (lambda: svcca(X, Y, dim=True), r"no number of directions(.|\n)*dim True"),
    "svcca of equal rows": (lambda: svcca(np.ones((24, 3)), Y, dim=0.9), r"fewer directions(.|\n)*rank 0"),
    "svcca of other samples": (lambda: unwrap(svcca)(X, Y[:20], dim=2), r"same samples"),
    "svcca of other prepared samples": (lambda: svcca(*(comparison(svcca).prepare(side, dim=2) for side in (X, Y[:20])), dim=2), r"same samples"),
    "procrustes of equal rows": (lambda: procrustes(X, np.ones((24, 2))), r"all rows of y are equal(.|\n)*2 constant columns"),
    "procrustes of other samples": (lambda: unwrap(procrustes)(X, Y[:20]), "same samples"),
    "cosine of other widths": (lambda: unwrap(cosine)(X, Y), r"same features twice(.|\n)*widths 5 and 4"),
    "structures of other widths": (lambda: unwrap(correlation_structure)(X, Y), r"same features(.|\n)*widths 5 and 4"),
    "structure of two rows": (lambda: correlation_structure(X[:2], X), r"cannot be compared(.|\n)*at least 3"),
    "structure of two features": (lambda: correlation_structure(X[:, :2], X[:, :2]), r"too few features vary(.|\n)*2 of 2"),
    "structure of copies": (lambda: correlation_structure(X, X[:, [0] * 5]), r"correlations of y are all equal"),
    "rank of equal rows": (lambda: effective_rank(np.full((4, 3), 0.1)), r"have no rank(.|\n)*4 rows that are all equal"),
    "rank of zeros": (lambda: effective_rank(np.zeros((4, 3)), centred=False), r"have no rank(.|\n)*all zero"),
    "rank of NaN": (lambda: effective_rank(np.where(X > 3, np.nan, X)), "NaN or infinity"),
    "dead in one row": (lambda: dead_features(X[:1]), "at least 2"),
    "a negative threshold": (lambda: dead_features(X, threshold=-1.0), r"never negative(.|\n)*threshold -1\.0"),
    "a share of nothing": (lambda: outlier_features(X, share=0.0), r"share is out of range"),
    "a negative count": (lambda: outlier_features(X, top=-1), r"top is out of range"),
    "outliers of infinity": (lambda: outlier_features(np.where(X > 3, np.inf, X)), "NaN or infinity"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_without_a_meaning_are_refused(case: str) -> None:
    call, match = REFUSED[case]
    with pytest.raises(UsageError, match=match):
        call()


def test_no_metric_warns_on_constant_zero_or_repeated_columns() -> None:
    x, y = sides(24, 5, 5)
    x = np.hstack([x, x[:, :1], np.zeros((24, 1)), np.full((24, 1), 0.1)])
    y = np.hstack([y, np.zeros((24, 3))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(math.isfinite(metric(x, y)) for metric in PAIRS.values())
        assert math.isfinite(effective_rank(x).value)


def test_the_inputs_are_left_as_they_were() -> None:
    x, y = sides(24, 5, 5)
    before = x.copy(), y.copy()
    for metric in (*PAIRS.values(), *SPECTRA.values()):
        metric(x, y)
    outlier_features(x)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])
