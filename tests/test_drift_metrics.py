"""Two-sample metrics: oracles, cases by hand, what each sees and is blind to, calibration, and errors."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial
from inspect import unwrap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import drift as slow
from scipy import stats

from harness.errors import UnknownNameError, UsageError
from harness.metrics import comparison
from harness.metrics._pairwise import squared_distances
from harness.metrics.c2st import c2st
from harness.metrics.energy_distance import energy_distance
from harness.metrics.js_divergence import js_divergence
from harness.metrics.kl_divergence import kl_divergence
from harness.metrics.ks import ks
from harness.metrics.mean_shift import mean_shift
from harness.metrics.mmd import mmd
from harness.metrics.psi import psi
from harness.metrics.sliced_wasserstein import sliced_wasserstein
from harness.metrics.wasserstein import wasserstein

PROPERTY = settings(deadline=None, max_examples=20)
Metric = Callable[..., Any]

PER_FEATURE: Mapping[str, Metric] = {
    "wasserstein": wasserstein,
    "kl_divergence": kl_divergence,
    "js_divergence": js_divergence,
    "psi": psi,
    "ks": ks,
    "mean_shift": mean_shift,
}
JOINT: Mapping[str, Metric] = {
    "sliced_wasserstein": sliced_wasserstein,
    "energy_distance": energy_distance,
    "mmd": mmd,
    "c2st": c2st,
}
ALL = {**PER_FEATURE, **JOINT}
BINNED = {"kl": kl_divergence, "js": js_divergence, "psi": psi}


def value(result: Any) -> float:
    return float(getattr(result, "value", result))


def gaussian(n: int, d: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def sets(seed: int, *, ties: bool = False, constant: bool = False, equal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of a random size and width that differ a little; `ties` rounds them, `constant` fixes a feature of x."""
    rng = np.random.default_rng(seed)
    n, m, d = rng.integers(4, 13), rng.integers(4, 13), rng.integers(1, 5)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n if equal else m, d)) * rng.uniform(0.5, 2, d) + rng.uniform(-1, 1, d)
    x, y = (np.round(x), np.round(y)) if ties else (x, y)
    x[:, 0] = 1.0 if constant else x[:, 0]
    return x, y


def rotation(d: int, *, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(gaussian(d, d, seed=seed))[0]


SEEDED = given(seed=st.integers(0, 9999), ties=st.booleans(), constant=st.booleans())


# against independent implementations


@PROPERTY
@SEEDED
def test_wasserstein_is_the_integral_of_the_quantile_functions(seed: int, ties: bool, constant: bool) -> None:
    x, y = sets(seed, ties=ties, constant=constant)
    found, expected = wasserstein(x, y), slow.wasserstein(x, y)
    assert found.features == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.features[found.worst] == max(found.features)
    raw = [stats.wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]
    assert [slow.wasserstein_line(a, b) for a, b in zip(x.T, y.T, strict=True)] == pytest.approx(raw, abs=1e-12)


@PROPERTY
@given(seed=st.integers(0, 9999), projections=st.integers(1, 9))
def test_sliced_wasserstein_is_the_mean_over_the_projected_lines(seed: int, projections: int) -> None:
    x, y = sets(seed)
    assert sliced_wasserstein(x, y, projections=projections, seed=seed) == pytest.approx(slow.sliced_wasserstein(x, y, projections=projections, seed=seed))


@PROPERTY
@SEEDED
def test_mean_shift_is_cohens_d(seed: int, ties: bool, constant: bool) -> None:
    x, y = sets(seed, ties=ties, constant=constant)
    found, expected = mean_shift(x, y), np.array(slow.mean_shift(x, y))
    assert found.features == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.value == pytest.approx(np.sqrt((expected**2).mean()))
    assert abs(found.features[found.worst]) == np.abs(found.features).max()


@pytest.mark.parametrize("kind", BINNED)
@PROPERTY
@given(seed=st.integers(0, 9999), ties=st.booleans(), constant=st.booleans(), bins=st.integers(2, 12), smoothing=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_divergences_are_those_of_bins_counted_one_by_one(kind: str, seed: int, ties: bool, constant: bool, bins: int, smoothing: float) -> None:
    x, y = sets(seed, ties=ties, constant=constant)
    expected = slow.binned(x, y, kind, bins=bins, smoothing=smoothing)
    found = BINNED[kind](x, y, bins=bins, smoothing=smoothing)
    assert found.features == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert found.value >= -1e-12
    if kind == "js":
        assert (found.features <= np.log(2) + 1e-12).all()


@PROPERTY
@SEEDED
def test_ks_counts_the_orders_that_reach_its_statistic_for_small_samples(seed: int, ties: bool, constant: bool) -> None:
    x, y = sets(seed, ties=ties, constant=constant)
    found = ks(x, y)
    expected = [slow.ks(a.tolist(), b.tolist()) for a, b in zip(x.T, y.T, strict=True)]
    assert found.statistic == pytest.approx([statistic for statistic, _ in expected], abs=1e-12)
    assert found.p_values == pytest.approx([p_value for _, p_value in expected], rel=1e-9)


@pytest.mark.parametrize(("n", "m", "shift"), [(3, 3, 20.0), (100, 100, 1.5), (100, 100, 20.0), (97, 50, 1.0), (2, 5000, 0.5), (5000, 2, 0.5)])
def test_ks_is_scipys_exact_test_for_tiny_p_values_and_lopsided_samples(n: int, m: int, shift: float) -> None:
    x, y = gaussian(n, 1), gaussian(m, 1, seed=1) + shift
    assert ks(x, y).p_values[0] == pytest.approx(stats.ks_2samp(x[:, 0], y[:, 0], method="exact").pvalue, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "above"), [(150, 150, 1.03), (1000, 1000, 1.03), (300, 120, 1.2), (2000, 1500, 1.2)])
def test_the_limit_stays_near_the_exact_p_value_where_that_is_not_counted(n: int, m: int, above: float) -> None:
    x, y = gaussian(n, 20), gaussian(m, 20, seed=1) + np.linspace(0, 3.5 * np.sqrt(1 / n + 1 / m), 20)
    exact = np.array([stats.ks_2samp(a, b, method="exact").pvalue for a, b in zip(x.T, y.T, strict=True)])
    middle = (exact > 0.01) & (exact < 0.3)
    assert middle.sum() >= 4
    ratio = ks(x, y).p_values[middle] / exact[middle]
    assert ratio.min() > 0.97
    assert ratio.max() < above


@PROPERTY
@given(seed=st.integers(0, 9999), fdr=st.sampled_from([0.01, 0.05, 0.3]))
def test_rejections_are_those_of_benjamini_and_hochberg(seed: int, fdr: float) -> None:
    x, y = gaussian(40, 30, seed=seed), gaussian(40, 30, seed=seed + 1) + np.linspace(0, 1.5, 30)
    found = ks(x, y, fdr=fdr)
    assert np.array_equal(found.rejected, stats.false_discovery_control(found.p_values) <= fdr)
    assert found.value == found.rejected.mean()


@pytest.mark.parametrize("options", [{}, {"biased": True}, {"pairs": True}])
@PROPERTY
@given(seed=st.integers(0, 9999), ties=st.booleans())
def test_energy_distance_is_the_mean_over_pairs_of_rows(options: dict[str, bool], seed: int, ties: bool) -> None:
    x, y = sets(seed, ties=ties, equal="pairs" in options)
    assert energy_distance(x, y, **options) == pytest.approx(slow.energy_distance(x, y, **options), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("pairs", [False, True])
@PROPERTY
@given(seed=st.integers(0, 9999), ties=st.booleans())
def test_mmd_is_the_mean_kernel_over_pairs_of_rows(pairs: bool, seed: int, ties: bool) -> None:
    x, y = sets(seed, ties=ties, equal=pairs)
    sigma = slow.median_distance(x, y)
    assert mmd(x, y, pairs=pairs) == pytest.approx(slow.mmd(x, y, sigma=sigma, pairs=pairs), rel=1e-9, abs=1e-12)
    assert mmd(x, y, sigma=0.7, pairs=pairs) == pytest.approx(slow.mmd(x, y, sigma=0.7, pairs=pairs), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1500, 700), (1100, 1100)])
def test_tiles_that_do_not_fill_a_block_add_up(n: int, m: int) -> None:
    x, y = gaussian(n), gaussian(m, seed=1) + 0.1
    within = [stats.energy_distance(x[:, 0], y[:, 0]) ** 2, energy_distance(x[:, :1], y[:, :1], biased=True)]
    assert within[1] == pytest.approx(within[0], rel=1e-8)


def test_the_linear_kernel_gives_the_squared_distance_of_the_means_less_its_bias() -> None:
    x, y = gaussian(12), gaussian(9, seed=1) + 1
    bias = x.var(0, ddof=1).sum() / 12 + y.var(0, ddof=1).sum() / 9
    assert mmd(x, y, kernel="linear") == pytest.approx(((x.mean(0) - y.mean(0)) ** 2).sum() - bias)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (60, 25)])
def test_c2st_is_the_area_of_an_independent_classifier(n: int, m: int) -> None:
    x, y = gaussian(n, 5) * [1, 2, 3, 4, 5], gaussian(m, 5, seed=1) * [2, 2, 3, 5, 5] + [0, 0.8, 0, 0, 0]
    rng = np.random.default_rng(3)
    folds_x, folds_y = rng.permutation(np.arange(n) % 4), rng.permutation(np.arange(m) % 4)
    found = c2st(x, y, folds=4, components=4, products=3, penalty=20.0, seed=3)
    expected = slow.classifier_area(x, y, folds_x, folds_y, components=4, products=3, penalty=20.0)
    assert found.value == pytest.approx(expected, abs=1e-6)  # half the penalty changes it by 0.008
    assert 0.6 < found.value < 1
    assert found.value == pytest.approx(found.folds.mean())


# by hand


X, Y = np.array([[0.0], [2.0]]), np.array([[1.0], [3.0], [5.0]])


@pytest.mark.parametrize(
    ("metric", "x", "y", "expected"),
    [
        (wasserstein, X, Y, 2.0),  # means are 1 and 3, no quantile falls; the std of x is 1
        (wasserstein, X, X[::-1], 0.0),
        (wasserstein, X * 0, X * 0 + 1, 2.0),  # one step of 1 in units of 0.5
        (sliced_wasserstein, X, Y, 2.0),
        (mean_shift, X, Y, 2 / np.sqrt((2 + 8) / 3)),
        (mean_shift, X * 0, X * 0 + 1, 2.0),
        (energy_distance, X, Y, 2 * 14 / 6 - 2 - 8 / 3),
        (partial(energy_distance, biased=True), X, Y, 2 * 14 / 6 - 1 - 16 / 9),
        (partial(energy_distance, pairs=True), X, X + 1, (2 * (3 + 1) - 4 - 4) / 2),
        (partial(mmd, kernel="linear"), X, Y, 4 - 2 / 2 - 4 / 3),
        (partial(mmd, sigma=1.0), X, X + 1, np.exp(-2) + np.exp(-2) - (3 * np.exp(-0.5) + np.exp(-4.5)) / 2),
        (partial(kl_divergence, bins=2, smoothing=0.0), X, np.array([[0.0], [0.0], [3.0], [0.0]]), np.log(2 / 3) / 2 + np.log(2) / 2),
        (partial(js_divergence, smoothing=0.0), X, X + 9, np.log(2)),
        (partial(psi, bins=2, smoothing=0.0), X, np.array([[-1.0], [0.0], [0.0], [7.0]]), np.log(3) / 4),
        (partial(psi, bins=2, smoothing=0.0), X, X + 9, np.inf),
    ],
)  # fmt: skip
def test_two_points_by_hand(metric: Metric, x: np.ndarray, y: np.ndarray, expected: float) -> None:
    assert value(metric(x, y)) == pytest.approx(expected, abs=1e-12)


def test_ks_of_two_separate_pairs_by_hand() -> None:
    found = ks(X, X + 9, fdr=0.4)  # two of the six orders of two and two separate them
    assert (found.value, found.statistic[0], found.p_values[0]) == (1.0, 1.0, pytest.approx(1 / 3))


def test_the_feature_that_moved_is_named() -> None:
    x, y = gaussian(200, 6), gaussian(200, 6, seed=2)
    y[:, 4] -= 0.8
    for metric in (wasserstein, kl_divergence, js_divergence, psi, mean_shift):
        assert metric(x, y).worst == 4
    assert mean_shift(x, y).features[4] < -0.5
    assert np.flatnonzero(ks(x, y).rejected).tolist() == [4]


# identical sets, dtypes, constant features


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_set_and_itself_give_the_value_for_identical_inputs(name: str, dtype: type) -> None:
    x = gaussian(40, 4).astype(dtype)
    options = {"pairs": True} if name in ("energy_distance", "mmd", "c2st") else {}
    found = comparison(ALL[name])
    assert found is not None
    assert found.kind == "two_sample"
    assert value(ALL[name](x, x.copy(), **options)) == pytest.approx(found.identical, abs=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_float32_rows_give_what_the_same_rows_give_in_float64(name: str) -> None:
    x, y = gaussian(60, 4).astype(np.float32), (gaussian(50, 4, seed=1) + 0.3).astype(np.float32)
    assert value(ALL[name](x, y)) == pytest.approx(value(ALL[name](x.astype(np.float64), y.astype(np.float64))), rel=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_a_constant_feature_is_no_drift_and_no_error(name: str) -> None:
    x, y = (np.hstack([gaussian(40, 2, seed=seed), np.full((40, 1), 0.1)]) for seed in (0, 1))
    found = ALL[name](x, y)
    assert np.isfinite(value(found))
    for own in ("features", "statistic"):
        assert getattr(found, own, np.zeros(3))[2] == 0


@pytest.mark.parametrize("name", PER_FEATURE)
@pytest.mark.parametrize("to", [-1.0, 1.0])
def test_a_dead_feature_that_wakes_in_either_direction_is_seen_and_finite(name: str, to: float) -> None:
    x, y = np.zeros((40, 1)), np.zeros((40, 1))
    y[:20] = to
    found = PER_FEATURE[name](x, y)
    assert np.isfinite(found.value)
    assert found.value > 0.1


@pytest.mark.parametrize("metric", [wasserstein, mean_shift])
def test_a_feature_that_only_rounding_moves_within_a_sample_counts_as_constant(metric: Metric) -> None:
    x, y = np.tile([[1.0], [1.0 + 2**-52]], (20, 1)), np.tile([[2.0], [2.0 + 2**-51]], (20, 1))
    assert metric(x, y).features[0] == pytest.approx(2.0)
    little = 1 + 1e-5 * gaussian(40, 1)
    assert metric(little, little + 1).features[0] > 5e4  # a small spread is still a spread


@pytest.mark.parametrize("name", ALL)
def test_the_inputs_are_left_as_they_were(name: str) -> None:
    x, y = gaussian(30), gaussian(30, seed=1)
    before = x.copy(), y.copy()
    ALL[name](x, y)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


# invariances that hold, and those that must not


@pytest.mark.parametrize("name", [name for name in ALL if name != "c2st"])  # its folds go by the order of rows
@PROPERTY
@given(seed=st.integers(0, 9999))
def test_the_order_of_rows_does_not_matter(name: str, seed: int) -> None:
    x, y = sets(seed)
    rng = np.random.default_rng(seed)
    assert value(ALL[name](rng.permutation(x), rng.permutation(y))) == pytest.approx(value(ALL[name](x, y)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in ALL if name != "sliced_wasserstein"])  # its directions go by the order of features
def test_the_order_of_features_does_not_matter(name: str) -> None:
    x, y = gaussian(60, 5) * [1, 2, 3, 4, 5], gaussian(50, 5, seed=1) + 0.5
    order = [3, 1, 4, 0, 2]
    assert value(ALL[name](x[:, order], y[:, order])) == pytest.approx(value(ALL[name](x, y)), rel=1e-9)


@pytest.mark.parametrize("name", [*PER_FEATURE, "c2st"])
def test_units_of_the_features_do_not_matter_where_features_are_standardised(name: str) -> None:
    x, y = gaussian(60, 4), gaussian(50, 4, seed=1) + 0.5
    scale, shift = np.array([1e-3, 1, 50, 1e4]), np.array([0, 3, -7, 1e3])
    assert value(ALL[name](x * scale + shift, y * scale + shift)) == pytest.approx(value(ALL[name](x, y)), rel=1e-6)


@pytest.mark.parametrize("name", ["ks", "kl_divergence", "js_divergence", "psi"])
def test_rank_statistics_do_not_see_an_increasing_map_of_a_feature(name: str) -> None:
    x, y = gaussian(60), gaussian(50, seed=1) + 0.5
    assert value(ALL[name](np.exp(x), np.exp(y))) == pytest.approx(value(ALL[name](x, y)), rel=1e-12)
    assert wasserstein(np.exp(x), np.exp(y)).value != pytest.approx(wasserstein(x, y).value, rel=1e-2)


@pytest.mark.parametrize("name", ["energy_distance", "mmd"])
@PROPERTY
@given(seed=st.integers(0, 9999), shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
def test_rotation_and_shift_keep_distances_and_scale_goes_through(name: str, seed: int, shift: float, scale: float) -> None:
    x, y = sets(seed)
    turned = rotation(x.shape[1], seed=seed)
    factor = scale if name == "energy_distance" else 1.0  # the width of the kernel goes with the scale
    assert ALL[name](*(scale * (rows @ turned) + shift for rows in (x, y))) == pytest.approx(factor * ALL[name](x, y), rel=1e-7, abs=1e-9)


def test_a_rotation_changes_the_sliced_distance_by_its_monte_carlo_error() -> None:
    x, y = gaussian(80, 4), gaussian(80, 4, seed=1) * [1, 1, 1, 3]
    turned = rotation(4)
    assert sliced_wasserstein(x @ turned, y @ turned, projections=2000) == pytest.approx(sliced_wasserstein(x, y, projections=2000), rel=0.05)
    assert sliced_wasserstein(x @ turned, y @ turned, projections=4) != pytest.approx(sliced_wasserstein(x, y, projections=4), rel=0.01)
    assert sliced_wasserstein(3 * x + 5, 3 * y + 5) == pytest.approx(3 * sliced_wasserstein(x, y))


@pytest.mark.parametrize("name", ["wasserstein", "psi", "kl_divergence", "js_divergence", "mean_shift"])
def test_per_feature_metrics_depend_on_the_axes(name: str) -> None:
    x, y = gaussian(80, 4) * [1, 2, 3, 4], gaussian(80, 4, seed=1) * [1, 2, 3, 4] + [3, 0, 0, 0]
    turned = rotation(4)
    assert value(ALL[name](x @ turned, y @ turned)) != pytest.approx(value(ALL[name](x, y)), rel=0.03)


SYMMETRIC = {"js_divergence", "ks", "sliced_wasserstein", "energy_distance", "mmd", "mean_shift"}


@pytest.mark.parametrize("name", [name for name in ALL if name != "c2st"])
def test_which_metrics_are_symmetric(name: str) -> None:
    x, y = gaussian(60), gaussian(45, seed=1) * 1.7 + 0.8
    same = value(ALL[name](x, y)) == pytest.approx(value(ALL[name](y, x)), rel=1e-9)
    assert same == (name in SYMMETRIC)


# what each sees


def shuffled_columns(rows: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The same values of every feature, in rows that no longer belong together."""
    return np.random.default_rng(seed).permuted(rows, axis=0)


def correlated(n: int, *, seed: int) -> np.ndarray:
    rows = gaussian(n, 4, seed=seed)
    return np.column_stack([rows[:, 0], *(0.9 * rows[:, :1] + np.sqrt(1 - 0.81) * rows[:, 1:]).T])


@pytest.mark.parametrize("name", ALL)
def test_per_feature_metrics_are_blind_to_lost_correlations_and_joint_ones_see_them(name: str) -> None:
    x, y = correlated(200, seed=0), correlated(200, seed=1)
    kept, lost = value(ALL[name](x, y)), value(ALL[name](x, shuffled_columns(y)))
    assert (kept == pytest.approx(lost, rel=1e-12)) == (name in PER_FEATURE)
    if name in JOINT:
        assert evidence(name, x, shuffled_columns(y)) <= 0.025
        assert evidence(name, x, y) > 0.05


def evidence(name: str, x: np.ndarray, y: np.ndarray, *, permutations: int = 39, seed: int = 0, **options: Any) -> float:
    """p-value of the metric among relabellings of the pooled rows; ks by its largest statistic, its share being 0 throughout the null."""
    if name == "c2st":  # the value's own spread under the null, instead of fitting a hundred classifiers
        return float(stats.norm.sf((c2st(x, y, folds=2, **options).value - 0.5) / np.sqrt((1 / len(x) + 1 / len(y)) / 12)))
    rng = np.random.default_rng(seed)
    metric: Metric = (lambda a, b: ks(a, b).statistic.sum()) if name == "ks" else partial(ALL[name], **options)
    pooled = np.concatenate([x, y])
    first = np.arange(len(pooled)) < len(x)
    labels = rng.permuted(np.tile(first, (permutations, 1)), axis=1)
    found = comparison(ALL[name])
    relabelled = None if found is None or name == "ks" else found.relabelled
    null = relabelled(pooled, labels, **options) if relabelled else np.array([value(metric(pooled[label], pooled[~label])) for label in labels])
    return float((1 + (null >= value(metric(x, y)) - 1e-12).sum()) / (1 + permutations))


CHANGES: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], set[str]]] = {
    "another sample": (lambda y: y, set()),
    "a shift": (lambda y: y + 0.6, set(ALL)),
    "a shift of one feature": (lambda y: y + [2, 0, 0, 0], set(ALL)),
    "a scale": (lambda y: 2 * y, set(ALL) - {"mean_shift"}),
    "a rotation of isotropic rows": (lambda y: y @ rotation(4), set()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ALL)
def test_each_metric_turns_red_for_what_it_can_see_and_stays_green_otherwise(name: str, change: str) -> None:
    moved, seen_by = CHANGES[change]
    p_value = evidence(name, gaussian(120, 4), moved(gaussian(120, 4, seed=3)))
    assert (p_value <= 0.025) == (name in seen_by), p_value


def test_two_samples_cannot_tell_a_rotation_of_isotropic_rows_although_every_row_moved() -> None:
    x = gaussian(300, 4)
    y = x @ rotation(4)
    assert np.linalg.norm(x - y, axis=1).min() > 0
    assert ks(x, y).value == 0
    assert energy_distance(x, y) < 0.02 < energy_distance(x, x + 0.3)


def test_a_linear_classifier_without_products_would_miss_a_change_of_scale() -> None:
    x, y = gaussian(200, 4), 1.6 * gaussian(200, 4, seed=1)
    assert c2st(x, y, products=0).value < 0.58
    assert c2st(x, y).value > 0.65


# nulls


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("ks", "c2st")])  # their nulls are below
def test_p_values_by_permutation_are_uniform_under_the_null(name: str) -> None:
    options = {"projections": 8} if name == "sliced_wasserstein" else {}
    samples = [(gaussian(14, seed=2 * seed), gaussian(14, seed=2 * seed + 1)) for seed in range(200)]
    p_values = np.array([evidence(name, x, y, permutations=19, seed=seed, **options) for seed, (x, y) in enumerate(samples)])
    assert abs(p_values.mean() - 0.525) < 0.06  # 0.0204 is the standard error of 200 uniform values on 0.05, 0.10, … 1.00
    assert 0.04 <= (p_values <= 0.1).mean() <= 0.17


@pytest.mark.parametrize("fdr", [0.05, 0.2])
def test_ks_rejects_anything_at_all_no_more_often_than_its_rate(fdr: float) -> None:
    rejected = [ks(gaussian(60, 8, seed=2 * seed), gaussian(50, 8, seed=2 * seed + 1), fdr=fdr).value > 0 for seed in range(200)]
    assert fdr / 4 <= np.mean(rejected) <= fdr + 2.5 * np.sqrt(fdr * (1 - fdr) / 200)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (60, 20)])
def test_c2st_is_at_chance_under_the_null_with_the_spread_it_states(n: int, m: int) -> None:
    found = np.array([c2st(gaussian(n, seed=2 * seed), gaussian(m, seed=2 * seed + 1), folds=3, seed=seed).value for seed in range(20)])
    spread = np.sqrt((1 / n + 1 / m) / 12)
    assert abs(found.mean() - 0.5) < 3.5 * spread / np.sqrt(20)
    assert 0.6 * spread < found.std() < 1.8 * spread


@pytest.mark.parametrize(("n", "m"), [(200, 200), (400, 100)])
@pytest.mark.parametrize(
    ("metric", "level"),
    [
        (kl_divergence, lambda inverse: 4.5 * inverse),
        (js_divergence, lambda inverse: 9 / 8 * inverse),
        (psi, lambda inverse: 9 * inverse),
        (mean_shift, np.sqrt),
        (wasserstein, lambda inverse: 1.3 * np.sqrt(inverse)),
    ],
)  # fmt: skip
def test_the_level_under_the_null_is_the_one_that_the_docstring_states(metric: Metric, level: Callable[[float], float], n: int, m: int) -> None:
    assert metric(gaussian(n, 200), gaussian(m, 200, seed=1)).value == pytest.approx(level(1 / n + 1 / m), rel=0.12)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (40, 10)])
def test_the_unbiased_statistics_are_zero_on_average_at_any_n_and_the_biased_one_is_not(n: int, m: int) -> None:
    samples = [(gaussian(n, seed=2 * seed), gaussian(m, seed=2 * seed + 1)) for seed in range(300)]
    for metric in (energy_distance, mmd):
        found = np.array([metric(x, y) for x, y in samples])
        assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    biased = np.mean([energy_distance(x, y, biased=True) for x, y in samples[:60]])
    assert biased == pytest.approx((1 / n + 1 / m) * 4 / np.sqrt(np.pi), rel=0.1)  # E|X - X'| in three dimensions is 4 / sqrt(pi)


# relabelling, pairs and precision


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wasserstein", {}),
        ("sliced_wasserstein", {"projections": 5, "seed": 2}),
        ("mean_shift", {}),
        ("kl_divergence", {}),
        ("js_divergence", {"bins": 4, "smoothing": 0.0}),
        ("ks", {"fdr": 0.3}),
        ("energy_distance", {}),
        ("energy_distance", {"biased": True}),
        ("mmd", {"sigma": 0.8}),
        ("mmd", {"kernel": "linear"}),
    ],
)
@pytest.mark.parametrize(("n", "m"), [(20, 20), (25, 9)])
def test_one_pass_over_all_labels_gives_the_metric_of_each_split(name: str, options: dict[str, Any], n: int, m: int) -> None:
    pooled = np.hstack([gaussian(n + m), np.zeros((n + m, 1)), np.eye(n + m)[:, :1]])
    labels = np.random.default_rng(1).permuted(np.tile(np.arange(n + m) < n, (40, 1)), axis=1)
    found = comparison(ALL[name])
    assert found is not None
    assert found.relabelled is not None
    expected = [value(ALL[name](pooled[label], pooled[~label], **options)) for label in labels]
    assert found.relabelled(pooled, labels, **options) == pytest.approx(np.array(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("metric", [energy_distance, mmd])
def test_one_pass_over_swaps_gives_the_metric_of_each_swap(metric: Metric) -> None:
    x, y = gaussian(15), gaussian(15, seed=1) + 0.5
    kept = np.random.default_rng(1).random((20, 15)) < 0.5
    found = comparison(metric)
    assert found is not None
    assert found.relabelled is not None
    options = {"pairs": True} if metric is energy_distance else {"pairs": True, "sigma": 1.0}
    swapped = [metric(np.where(keep[:, None], x, y), np.where(keep[:, None], y, x), **options) for keep in kept]
    assert found.relabelled(np.concatenate([x, y]), np.hstack([kept, ~kept]), **options) == pytest.approx(np.array(swapped))
    with pytest.raises(UsageError, match="do not come in pairs"):
        found.relabelled(np.concatenate([x, y]), np.random.default_rng(1).permuted(np.hstack([kept, ~kept]), axis=1), **options)


@pytest.mark.parametrize("metric", [energy_distance, mmd])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_rerun_is_measured_and_not_drowned(metric: Metric, offset: float) -> None:
    x = gaussian(40, 64) + offset
    x[:, 0] *= 50  # a massive feature
    y = x + 1e-6 * gaussian(40, 64, seed=1)
    expected = slow.energy_distance(x, y, pairs=True) if metric is energy_distance else slow.mmd(x, y, sigma=slow.median_distance(x, y), pairs=True)
    found = metric(x, y, pairs=True)
    moved = metric(x, x + 0.1, pairs=True)
    assert abs(expected) < 1e-9 * moved
    assert found == pytest.approx(expected, abs=1e-9 * moved)


def test_copies_without_pairs_score_below_nothing_and_a_shift_smaller_than_that_is_seen_with_pairs() -> None:
    x = gaussian(50, 8)
    y = x + 0.02
    assert energy_distance(x, y) < -0.01
    assert 0 < energy_distance(x, y, pairs=True) < 0.01
    assert c2st(x, x).value < 0.3
    assert c2st(x, x, pairs=True).value == 0.5


@pytest.mark.parametrize(("distance", "wrong"), [(1e-7, 1e-3), (1e-3, 1e-12)])
def test_distances_of_near_rows_keep_their_digits_where_products_alone_would_lose_them(distance: float, wrong: float) -> None:
    a = gaussian(30, 64)
    b = a + distance * gaussian(30, 64, seed=1)
    exact = ((a - b) ** 2).sum(1)
    assert np.diagonal(squared_distances(a, b)) == pytest.approx(exact, rel=1e-9)
    by_products = (a**2).sum(1) + (b**2).sum(1) - 2 * (a * b).sum(1)
    assert np.abs(by_products / exact - 1).max() > wrong
    assert np.array_equal(np.diagonal(squared_distances(a, a)), np.zeros(30))


@pytest.mark.parametrize("metric", [wasserstein, sliced_wasserstein])
def test_a_shift_of_a_millionth_is_a_distance_of_a_millionth(metric: Metric) -> None:
    x = gaussian(200, 1)
    assert value(metric(x, x + 1e-6)) == pytest.approx(1e-6 / (x.std() if metric is wasserstein else 1), rel=1e-6)


@pytest.mark.parametrize("metric", [energy_distance, mmd])
def test_memory_does_not_grow_with_the_square_of_the_rows(metric: Metric) -> None:
    x, y = gaussian(3000, 4), gaussian(3000, 4, seed=1)
    tracemalloc.start()
    metric(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000**2 * 8 / 4


# errors


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x, y: (np.where(np.arange(30)[:, None] == 4, np.nan, x), y), r"x holds NaN or infinity(.|\n)*1 of 30 rows"),
        (lambda x, y: (x, np.where(np.arange(30)[:, None] == 4, np.inf, y)), r"y holds NaN or infinity"),
        (lambda x, y: (x, y[:, :2]), r"same features(.|\n)*widths 3 and 2"),
        (lambda x, y: (x[:1], y), r"x cannot be compared(.|\n)*shape \(1, 3\)"),
        (lambda x, y: (x, y[:, :0]), r"y cannot be compared"),
    ],
    ids=["a NaN row", "an infinite row", "other features", "one row", "no feature"],
)
def test_inputs_that_cannot_be_compared_are_refused(name: str, spoil: Callable[..., tuple[np.ndarray, np.ndarray]], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        unwrap(ALL[name])(*spoil(gaussian(30), gaussian(30, seed=1)))  # without the types, which only the tests check


@pytest.mark.parametrize(
    ("metric", "rows", "match"),
    [
        (partial(sliced_wasserstein, projections=0), (9, 9), "no direction"),
        (partial(kl_divergence, bins=1), (9, 9), r"no distribution(.|\n)*bins=1"),
        (partial(psi, smoothing=-1.0), (9, 9), r"less than nothing(.|\n)*smoothing=-1"),
        (partial(js_divergence, smoothing=float("nan")), (9, 9), r"less than nothing(.|\n)*smoothing=nan"),
        (partial(ks, fdr=1.0), (9, 9), r"rate of false discoveries(.|\n)*fdr=1.0"),
        (partial(energy_distance, pairs=True), (9, 8), r"do not come in pairs(.|\n)*9 and 8 rows"),
        (partial(energy_distance, pairs=True), (10, 8), r"do not come in pairs(.|\n)*10 and 8 rows"),
        (partial(energy_distance, pairs=True, biased=True), (9, 9), "one estimator at a time"),
        (partial(mmd, pairs=True), (9, 8), "do not come in pairs"),
        (partial(mmd, sigma=0.0), (9, 9), r"needs a width(.|\n)*sigma=0"),
        (partial(c2st, pairs=True), (30, 20), r"do not come in pairs(.|\n)*30 and 20 rows"),
        (c2st, (9, 30), r"too few rows(.|\n)*9 and 30 rows(.|\n)*at least 10 of each"),
        (partial(c2st, folds=1), (30, 30), "not a classifier"),
        (partial(c2st, penalty=0.0), (30, 30), "not a classifier"),
    ],
)
def test_options_that_make_no_sense_are_refused(metric: Metric, rows: tuple[int, int], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        metric(gaussian(rows[0]), gaussian(rows[1], seed=1))


def test_an_unknown_kernel_is_answered_with_the_kernels_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"nearest is 'rbf'(.|\n)*linear"):
        mmd(gaussian(5), gaussian(5), kernel="rbs")
