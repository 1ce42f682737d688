"""Intervals, nulls and p-values of any metric, proved on metrics whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UsageError
from harness.metrics import paired, two_sample
from harness.scores import score


@paired()
def correlation(x, y):
    return float(np.corrcoef(x[:, 0], y[:, 0])[0, 1])


@two_sample()
def mean_difference(x, y):
    return float(np.abs(x.mean(0) - y.mean(0)).sum())


def relabelled(pooled, labels):
    first = labels @ pooled / labels.sum(1, keepdims=True)
    second = ~labels @ pooled / (~labels).sum(1, keepdims=True)
    return np.abs(first - second).sum(1)


@two_sample(relabelled=relabelled)
def quick_difference(x, y):
    return mean_difference(x, y)


@two_sample(identical=1.0, closer="higher")
def overlap(x, y):
    return 1 / (1 + mean_difference(x, y))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_interval_of_a_correlation_is_as_wide_as_theory_says() -> None:
    x = normal(400, 1)
    y = 0.6 * x + 0.8 * normal(400, 1, seed=1)
    found = score(correlation, x, y, draws=1000, permutations=0)
    width = 2 * 1.96 * (1 - found.value**2) / np.sqrt(400)
    assert found.low < found.value < found.high
    assert abs((found.high - found.low) / width - 1) < 0.2
    assert np.isnan(found.p_value)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        x = normal(100, 1, seed=seed)
        y = 0.5 * x + np.sqrt(0.75) * normal(100, 1, seed=1000 + seed)
        found = score(correlation, x, y, draws=100, permutations=0, seed=seed)
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_frames_of_one_episode_widen_the_interval_and_the_null() -> None:
    episodes = np.repeat(np.arange(20), 10)
    x, y = (np.repeat(normal(20, 1, seed=seed), 10, axis=0) + 0.01 * normal(200, 1, seed=9 + seed) for seed in (0, 1))
    alone, together = score(correlation, x, y, draws=300), score(correlation, x, y, draws=300, groups=episodes)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.null_high - together.null_low > 2 * (alone.null_high - alone.null_low)


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(12), 5)], ids=["rows", "groups"])
def test_independent_representations_are_rarely_called_alike(groups) -> None:
    def unrelated(seed: int) -> np.ndarray:
        return normal(60, 1, seed=seed) if groups is None else np.repeat(normal(12, 1, seed=seed), 5, axis=0)

    p_values = np.array([score(correlation, unrelated(seed), unrelated(5000 + seed), groups=groups, draws=0, permutations=99, seed=seed).p_value for seed in range(400)])
    assert 0.025 <= (p_values <= 0.05).mean() <= 0.08
    assert 0.4 < p_values.mean() < 0.6


@pytest.mark.parametrize("lengths", [[2, 3, 4, 5, 6] * 4, [4] * 15 + [7], [1] * 3 + [30] * 12], ids=["mixed", "one longer", "some single"])
def test_episodes_of_different_length_are_no_evidence(lengths) -> None:
    groups = np.repeat(np.arange(len(lengths)), lengths)

    def unrelated(seed: int) -> np.ndarray:
        return normal(len(lengths), 1, seed=seed)[groups]

    p_values = np.array([score(correlation, unrelated(seed), unrelated(5000 + seed), groups=groups, draws=0, permutations=99, seed=seed).p_value for seed in range(400)])
    assert 0.025 <= (p_values <= 0.05).mean() <= 0.08


@pytest.mark.parametrize("pairs", [False, True])
def test_two_halves_of_one_distribution_are_rarely_called_apart(pairs) -> None:
    p_values = np.array(
        [score(quick_difference, normal(40, 3, seed=seed), normal(40, 3, seed=9000 + seed), pairs=pairs, draws=0, permutations=99, seed=seed).p_value for seed in range(400)]
    )
    assert 0.025 <= (p_values <= 0.05).mean() <= 0.08


def test_swapping_within_pairs_sees_a_shift_that_pooling_cannot() -> None:
    x = normal(100, 2)
    y = x + 0.05 + 0.01 * normal(100, 2, seed=1)
    assert score(mean_difference, x, y, pairs=True, draws=0).p_value < 0.01
    assert score(mean_difference, x, y, draws=0).p_value > 0.2


def test_a_row_stays_beside_its_twin_when_rows_are_exchanged() -> None:
    @two_sample()
    def between_twins(x, y, pairs=False):
        assert pairs
        return float(np.abs(x - y).max())

    x = normal(20, 2)
    found = score(between_twins, x, x + 0.5, pairs=True, draws=4, permutations=20)
    assert found.null_low == found.null_high == pytest.approx(0.5)


def test_one_pass_over_all_labels_gives_what_each_alone_gives() -> None:
    x, y = normal(30, 2), normal(20, 2, seed=1) + 0.3
    assert score(quick_difference, x, y, draws=5) == pytest.approx(score(mean_difference, x, y, draws=5))


def test_a_similarity_of_two_samples_is_extreme_below() -> None:
    x = normal(50, 2)
    assert score(overlap, x, x + 1, draws=0).p_value < 0.01
    assert score(overlap, x, normal(50, 2, seed=1), draws=0).p_value > 0.01


class Prepared:
    """Rows that count how often they were prepared."""

    made = 0

    def __init__(self, rows: np.ndarray) -> None:
        type(self).made += 1
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Prepared:
        new = object.__new__(Prepared)
        new.rows = self.rows[rows]
        return new


@paired(prepare=lambda x: Prepared(x))
def prepared_correlation(x, y):
    x, y = (side.rows if isinstance(side, Prepared) else side for side in (x, y))
    return correlation(x, y)


def test_what_a_metric_prepares_is_prepared_once() -> None:
    x, y = normal(50, 1), normal(50, 1, seed=1)
    Prepared.made = 0
    assert score(prepared_correlation, x, y, draws=20, permutations=20) == score(correlation, x, y, draws=20, permutations=20)
    assert Prepared.made == 2
    score(prepared_correlation, Prepared(x), Prepared(y), draws=2, permutations=2)
    assert Prepared.made == 4


@paired()
def picky(x, y):
    if not np.ptp(x):
        raise UsageError("all rows are equal")
    return correlation(x, y)


def test_halves_that_the_metric_refuses_are_left_out() -> None:
    x, y = np.zeros((8, 1)), normal(8, 1)
    x[:2] = 1
    assert np.isfinite(score(picky, x, y, draws=200, permutations=0).low)
    groups = [0, 0, 1, 2, 3, 4, 5, 6]  # four of seven are drawn: nearly half of the halves have no 1, or nothing else
    refused = [np.isnan(score(picky, x, y, draws=3, permutations=0, groups=groups, seed=seed).low) for seed in range(20)]
    assert any(refused)
    assert not all(refused)


def test_the_same_seed_gives_the_same_score_and_another_seed_does_not() -> None:
    x, y = normal(50, 1), normal(50, 1, seed=1)
    assert score(correlation, x, y) == score(correlation, x, y)
    assert score(correlation, x, y) != score(correlation, x, y, seed=1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.mean, normal(9, 1), normal(9, 1)), {}, "does not compare two arrays"),
        ((correlation, normal(9, 1), normal(8, 1)), {}, "9 and 8 rows"),
        ((mean_difference, normal(9, 1), normal(8, 1)), {"groups": [0] * 9}, "pairs=True"),
        ((correlation, normal(9, 1), normal(9, 1)), {"groups": [0, 1, 2]}, "3 groups"),
        ((correlation, normal(9, 1), normal(9, 1)), {"groups": [0, 1, 2] * 3}, "too few groups"),
    ],
)
def test_what_cannot_be_scored_says_why(arguments, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        score(*arguments, **options)
