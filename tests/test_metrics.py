"""Each metric against a slow independent implementation, a case by hand, an invariance and an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jaxtyping import TypeCheckError
from reference import linear_probe as slow_probe
from reference.probe_gain import probe_gain as slow_gain
from reference.sample_retrieval import sample_retrieval as slow_retrieval
from reference.summary import summary as slow_summary
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from harness.errors import UsageError
from harness.metrics._probe import PENALTIES, bootstrap_interval, held_out_hits
from harness.metrics._ridge import ridge_predictions
from harness.metrics.linear_probe import linear_probe
from harness.metrics.probe_gain import probe_gain
from harness.metrics.sample_retrieval import sample_retrieval
from harness.metrics.summary import summary

PROPERTY = settings(deadline=None, max_examples=25)


def tasks(count: int = 20, *, width: int = 4, rows: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random targets (g, e), and groups (n,) with `rows` rows for each task."""
    return np.random.default_rng(seed).standard_normal((count, width)), np.repeat(np.arange(count), rows)


def linear(targets: np.ndarray, groups: np.ndarray, *, width: int = 6, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Features that are a linear image of each row's target, with noise."""
    rng = np.random.default_rng([seed, 1])
    image = targets[groups] @ rng.standard_normal((targets.shape[1], width))
    return image + noise * rng.standard_normal(image.shape)


def gaussian(groups: np.ndarray, *, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 2]).standard_normal((len(groups), width))


# linear_probe


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize(("noise", "width", "rows"), [(0.0, 6, 1), (1.0, 6, 2), (1.0, 30, 1), (0.3, 3, 1)])
def test_the_probe_hits_the_rows_that_the_slow_probe_hits(noise: float, width: int, rows: int, permute: bool) -> None:
    targets, groups = tasks(12, rows=rows)
    x = linear(targets, groups, width=width, noise=noise).astype(np.float32)
    x[:, -1] = 7.0
    hits = held_out_hits(x, targets, groups, permute=permute, seed=5)
    assert hits.tolist() == slow_probe.held_out_hits(x, targets, groups, permute=permute, seed=5)
    assert permute or 0 < hits.sum()


def test_accuracy_is_the_share_of_hits_with_the_interval_over_tasks() -> None:
    targets, groups = tasks(12, rows=2)
    x = linear(targets, groups, noise=1.0)
    found, hits = linear_probe(x, targets, groups, seed=3), slow_probe.held_out_hits(x, targets, groups, seed=3)
    assert found.value == pytest.approx(sum(hits) / len(hits))
    assert (found.low, found.high) == pytest.approx(slow_probe.interval([float(hit) for hit in hits], groups, seed=3))
    assert 0 <= found.low < found.value < found.high <= 1


def test_the_interval_resamples_tasks_of_unequal_size() -> None:
    groups = np.array([7, 7, 7, 2, 5, 5, 9])
    values = np.array([1.0, 0.0, 1.0, 0.0, -1.0, 1.0, 1.0])
    assert bootstrap_interval(values, groups, seed=1) == pytest.approx(slow_probe.interval(values.tolist(), groups, seed=1))


def test_resampling_rows_instead_of_tasks_would_be_too_sure() -> None:
    groups = np.repeat(np.arange(10), 20)
    values = (groups < 5).astype(np.float64)
    low, high = bootstrap_interval(values, groups)
    row_low, row_high = bootstrap_interval(values, np.arange(len(values)))
    assert high - low > 3 * (row_high - row_low)


@pytest.mark.parametrize("width", [4, 40], ids=["fewer features than tasks", "more features than rows"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_perfect_linear_map_scores_one_on_unseen_tasks(width: int, dtype: type) -> None:
    targets, groups = tasks(30)
    found = linear_probe(linear(targets, groups, width=width).astype(dtype), targets, groups)
    assert found == (1.0, 1.0, 1.0, pytest.approx(1 / 30))


def test_identical_targets_count_as_one_in_the_level_of_guessing() -> None:
    targets, groups = tasks(15)
    doubled = np.concatenate([targets, targets])
    x = linear(targets, groups)
    found = linear_probe(np.concatenate([x, x]), doubled, np.concatenate([groups, groups + 15]))
    assert (found.value, found.chance) == (1.0, pytest.approx(1 / 15))


def mean_accuracy(features: Callable[[np.ndarray, np.ndarray, int], np.ndarray], *, permute: bool = False, seeds: int = 30) -> tuple[float, float]:
    """Mean accuracy over seeds, and the level of guessing."""
    found = []
    for seed in range(seeds):
        targets, groups = tasks(12, seed=seed)
        found.append(linear_probe(features(targets, groups, seed), targets, groups, permute=permute, seed=seed))
    return float(np.mean([accuracy.value for accuracy in found])), found[0].chance


UNINFORMATIVE: Mapping[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "noise": lambda targets, groups, seed: gaussian(groups, seed=seed),
    "a constant": lambda targets, groups, seed: np.ones((len(groups), 3)),
    "the task's number in one column each": lambda targets, groups, seed: np.eye(len(targets))[groups],
    "a random vector of each task": lambda targets, groups, seed: gaussian(np.arange(len(targets)), width=40, seed=seed)[groups],
}


@pytest.mark.parametrize("features", UNINFORMATIVE)
def test_features_that_say_nothing_about_unseen_tasks_never_beat_guessing(features: str) -> None:
    accuracy, chance = mean_accuracy(UNINFORMATIVE[features])
    assert accuracy <= chance + 0.02


def test_permuted_targets_put_informative_features_at_guessing() -> None:
    accuracy, chance = mean_accuracy(lambda targets, groups, seed: linear(targets, groups, seed=seed), permute=True)
    unpermuted, _ = mean_accuracy(lambda targets, groups, seed: linear(targets, groups, seed=seed), seeds=5)
    assert accuracy <= chance + 0.02
    assert unpermuted > 0.9


@pytest.mark.parametrize("features", ["the task's number in one column each", "a random vector of each task"])
def test_a_leaky_probe_would_score_one_on_features_that_only_name_the_task(features: str) -> None:
    targets, groups = tasks(12)
    x = UNINFORMATIVE[features](targets, groups, 0)
    assert slow_probe.leaky_accuracy(x, targets, groups) == 1.0
    assert linear_probe(x, targets, groups).value <= 0.25


@PROPERTY
@given(seed=st.integers(0, 999), exponents=hnp.arrays(np.int64, 6, elements=st.integers(-6, 6)), shift=st.floats(-100, 100))
def test_scale_and_shift_of_each_feature_do_not_change_the_hits(seed: int, exponents: np.ndarray, shift: float) -> None:
    targets, groups = tasks(12, seed=seed)
    x = linear(targets, groups, noise=0.5, seed=seed)
    changed = x * 2.0**exponents + shift
    assert np.array_equal(held_out_hits(changed, targets, groups), held_out_hits(x, targets, groups))


@PROPERTY
@given(seed=st.integers(0, 999))
def test_reflections_and_reorderings_of_the_features_do_not_change_the_hits(seed: int) -> None:
    targets, groups = tasks(12, seed=seed)
    x, rng = linear(targets, groups, noise=0.5, seed=seed), np.random.default_rng(seed)
    changed = x[:, rng.permutation(6)] * rng.choice([-1.0, 1.0], 6)
    assert np.array_equal(held_out_hits(changed, targets, groups), held_out_hits(x, targets, groups))


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100))
def test_a_rotation_and_scaling_of_the_targets_does_not_change_the_hits(seed: int, scale: float) -> None:
    targets, groups = tasks(12, seed=seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((4, 4)))[0]
    x = linear(targets, groups, noise=0.5, seed=seed)
    assert np.array_equal(held_out_hits(x, scale * targets @ rotation, groups), held_out_hits(x, targets, groups))


def test_the_order_of_rows_does_not_change_the_accuracy() -> None:
    targets, groups = tasks(12)
    x, order = linear(targets, groups, noise=0.5), np.random.default_rng(0).permutation(len(groups))
    assert np.array_equal(held_out_hits(x[order], targets, groups[order]), held_out_hits(x, targets, groups)[order])


def test_the_seed_decides_the_folds() -> None:
    targets, groups = tasks(12)
    x = linear(targets, groups, noise=1.5)
    assert np.array_equal(held_out_hits(x, targets, groups, seed=1), held_out_hits(x, targets, groups, seed=1))
    assert any(not np.array_equal(held_out_hits(x, targets, groups, seed=0), held_out_hits(x, targets, groups, seed=seed)) for seed in range(1, 6))


def test_the_inputs_are_left_as_they_were() -> None:
    targets, groups = tasks(12)
    x = linear(targets, groups)
    before = x.copy(), targets.copy(), groups.copy()
    linear_probe(x, targets, groups, permute=True)
    assert all(np.array_equal(*pair) for pair in zip(before, (x, targets, groups), strict=True))


PROBES: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], object]] = {
    "linear_probe": linear_probe,
    "probe_gain": lambda x, targets, groups: probe_gain(x, np.ones((len(groups), 2)), targets, groups),
    "the control of probe_gain": lambda x, targets, groups: probe_gain(np.ones((len(groups), 2)), x, targets, groups),
}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x, targets, groups: (np.where(np.arange(len(x))[:, None] == 4, np.nan, x), targets, groups), r"NaN or infinity(.|\n)*1 of 36 rows"),
        (lambda x, targets, groups: (np.where(x > 2, np.inf, x), targets, groups), r"NaN or infinity"),
        (lambda x, targets, groups: (x, targets[:-1], groups), r"groups do not fit(.|\n)*36 groups for 36 rows, 11 targets"),
        (lambda x, targets, groups: (x, targets, groups - 1), r"groups do not fit"),
        (lambda x, targets, groups: (x, targets, groups // 2), r"too few tasks(.|\n)*6 tasks(.|\n)*at least 10 tasks"),
    ],
    ids=["a NaN row", "an infinite entry", "a group without target", "a negative group", "six tasks"],
)
def test_inputs_that_no_probe_can_use_are_refused(probe: str, spoil: Callable[..., tuple[np.ndarray, ...]], match: str) -> None:
    targets, groups = tasks(12)
    with pytest.raises(UsageError, match=match):
        PROBES[probe](*spoil(linear(targets, groups), targets, groups))


def test_nine_tasks_are_too_few_and_ten_are_enough() -> None:
    targets, groups = tasks(10)
    assert linear_probe(linear(targets, groups), targets, groups).chance == pytest.approx(0.1)
    with pytest.raises(UsageError, match="9 tasks"):
        linear_probe(linear(targets, groups)[groups < 9], targets, groups[groups < 9])


def test_tasks_with_identical_targets_are_held_out_together() -> None:
    targets, groups = tasks(12)
    doubled, both = np.repeat(targets, 2, axis=0), np.repeat(np.arange(24), 3)
    accuracy = np.mean([linear_probe(np.eye(12)[both // 2], doubled, both, seed=seed).value for seed in range(5)])
    assert accuracy <= 1 / 12 + 0.1


def test_a_massive_feature_does_not_drop_the_others() -> None:
    targets, groups = tasks(20)
    x = 1e-7 * linear(targets, groups)
    massive = 1e6 + gaussian(groups, width=1)
    assert linear_probe(np.hstack([x, massive]), targets, groups).value == 1.0


def test_targets_that_are_not_finite_are_refused() -> None:
    targets, groups = tasks(12)
    x = linear(targets, groups)
    targets[3, 0] = np.nan
    with pytest.raises(UsageError):
        linear_probe(x, targets, groups)


# ridge


@pytest.mark.parametrize(("n", "d"), [(30, 5), (10, 40), (12, 12)])
def test_ridge_agrees_with_sklearn_on_standardised_features(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.standard_normal((n, d)) * rng.uniform(0.1, 9, d) + 3, rng.standard_normal((n, 3)), rng.standard_normal((7, d))
    scaler = StandardScaler().fit(x)
    for penalty, predicted in zip(PENALTIES, ridge_predictions(x, y, new, PENALTIES), strict=True):
        expected = Ridge(alpha=penalty * d).fit(scaler.transform(x), y).predict(scaler.transform(new))
        assert predicted == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_ridge_by_hand_for_one_feature() -> None:
    x, y = np.array([[-1.0], [1.0]]), np.array([[-2.0], [4.0]])
    (predicted,) = ridge_predictions(x, y, np.array([[1.0], [3.0]]), [1.0])
    assert predicted == pytest.approx(np.array([[3.0], [7.0]]))  # slope 6 / (2 + 1), centre 1


def test_ridge_drops_columns_that_are_constant_in_training() -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.standard_normal((9, 3)), rng.standard_normal((9, 2)), rng.standard_normal((4, 3))
    with_constant = ridge_predictions(np.c_[x, np.full(9, 5.0)], y, np.c_[new, [5.0, 9.0, -1e6, np.pi]], [0.1])
    assert with_constant[0] == pytest.approx(ridge_predictions(x, y, new, [0.1])[0])


# probe_gain


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_the_gain_is_that_of_the_slow_probe(noise: float) -> None:
    targets, groups = tasks(12, rows=2)
    x, control = linear(targets, groups, noise=noise), gaussian(groups)
    assert tuple(probe_gain(x, control, targets, groups, seed=2)) == pytest.approx(slow_gain(x, control, targets, groups, seed=2))


def test_perfect_features_gain_one_over_a_constant() -> None:
    targets, groups = np.eye(12)[:, :4] + np.random.default_rng(0).standard_normal((12, 4)), np.repeat(np.arange(12), 2)
    control = np.ones((24, 2))
    assert held_out_hits(control, targets, groups).sum() == 0
    assert probe_gain(linear(targets, groups), control, targets, groups) == (1.0, 1.0, 1.0)


def test_features_gain_nothing_over_themselves() -> None:
    targets, groups = tasks(12)
    x = linear(targets, groups, noise=1.0)
    assert 0 < linear_probe(x, targets, groups).value < 1
    assert probe_gain(x, x, targets, groups) == (0.0, 0.0, 0.0)


def test_the_gain_changes_sign_with_the_order() -> None:
    targets, groups = tasks(12)
    x, y = linear(targets, groups, noise=0.3), gaussian(groups)
    forth, back = probe_gain(x, y, targets, groups), probe_gain(y, x, targets, groups)
    assert forth.value > 0
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


# sample_retrieval


@PROPERTY
@given(seed=st.integers(0, 9999), n=st.integers(1, 9), distinct=st.integers(1, 9), noise=st.sampled_from([0.0, 0.5, 3.0]))
def test_sample_retrieval_is_that_of_the_slow_loop(seed: int, n: int, distinct: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((distinct, 5))[rng.integers(distinct, size=n)]
    predictions = targets + noise * rng.standard_normal((n, 5))
    assert sample_retrieval(predictions, targets) == pytest.approx(slow_retrieval(predictions.tolist(), targets.tolist()))


@pytest.mark.parametrize(("samples", "count"), [(45, 10), (45, 45), (10, 1), (112, 40)])
def test_perfect_predictions_score_no_more_than_tasks_by_samples(samples: int, count: int) -> None:
    targets = np.random.default_rng(0).standard_normal((count, 384))[np.arange(samples) % count]
    assert sample_retrieval(targets.copy(), targets) == pytest.approx(count / samples)


def test_retrieval_by_hand_counts_rows_and_gives_ties_to_the_first() -> None:
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    predictions = np.array([[3.0, 1.0], [0.1, 1.0], [0.0, 1.0], [1.0, -9.0]])
    assert sample_retrieval(predictions, targets) == 0.5  # rows 0 and 1; row 2 ties with 1; row 3 is nearest to 0


@PROPERTY
@given(seed=st.integers(0, 9999), factor=st.floats(1e-3, 1e3))
def test_rotation_and_scale_do_not_change_sample_retrieval(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    targets, predictions = rng.standard_normal((8, 5)), rng.standard_normal((8, 5))
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    assert sample_retrieval(factor * predictions @ rotation, targets @ rotation) == sample_retrieval(predictions, targets)


def test_predictions_of_other_samples_are_refused() -> None:
    with pytest.raises(TypeCheckError, match=r"sample_retrieval(.|\n)*targets"):
        sample_retrieval(np.ones((3, 4)), np.ones((5, 4)))


def test_predictions_of_nan_score_nothing() -> None:
    with pytest.raises(UsageError):
        sample_retrieval(np.full((4, 3), np.nan), np.eye(4)[:, :3])


# summary


@PROPERTY
@given(values=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e4, 1e4, width=32)))
def test_the_summary_is_that_of_the_slow_loop(values: np.ndarray) -> None:
    expected = slow_summary(values.astype(np.float64).tolist())
    found = summary(values)
    assert list(found) == list(expected)
    close = {name for name in expected if found[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9)}
    assert close >= set(expected) - {"outlying"}
    assert all(type(value) is float for value in found.values())


def test_the_summary_by_hand() -> None:
    found = summary(np.array([[3.0, 4.0, 0.0], [-3.0, 4.0, 0.0]]))
    expected = {"n": 2, "d": 3, "mean": 8 / 6, "min": -3, "max": 4, "q50": 1.5, "row_norm": 5, "spread": 3**0.5, "dead": 2, "outlying": 0}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("magnitude", "outlying"), [(5.9, 0.0), (6.1, 1.0), (1000.0, 1.0)])
def test_a_feature_beyond_six_median_magnitudes_is_outlying(magnitude: float, outlying: float) -> None:
    values = np.where(np.arange(9) == 4, magnitude, 1.0) * np.array([[1.0], [-1.0]])
    assert summary(values)["outlying"] == outlying
    assert slow_summary(values.tolist())["outlying"] == outlying


@PROPERTY
@given(values=hnp.arrays(np.float64, (5, 4), elements=st.integers(-50, 50).map(float)), seed=st.integers(0, 99))
def test_the_order_of_samples_and_features_does_not_change_the_summary(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert summary(values[rng.permutation(5)][:, rng.permutation(4)]) == pytest.approx(summary(values), rel=1e-12, abs=1e-12)


@PROPERTY
@given(values=hnp.arrays(np.float64, (5, 4), elements=st.integers(-50, 50).map(float)))
def test_doubling_the_features_doubles_every_statistic_with_a_unit(values: np.ndarray) -> None:
    found, doubled = summary(values), summary(2 * values)
    counts = {"n", "d", "dead", "outlying"}
    assert doubled == {name: value if name in counts else 2 * value for name, value in found.items()}


def test_half_precision_is_summarised_in_float64() -> None:
    found = summary(np.full((4, 3), 60000.0, np.float16))
    assert (found["mean"], found["std"], found["row_norm"]) == (60000.0, 0.0, pytest.approx(60000 * 3**0.5))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_array_has_no_summary(shape: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"nothing to summarise(.|\n)*shape \(\d, \d\)"):
        summary(np.zeros(shape))
