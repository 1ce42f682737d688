"""Where nothing is to be found, every metric finds something in one trial of twenty: no metric is marked, prepared or relabelled wrongly.

A trial draws data under the null and scores them. 19 permutations suffice for an exact level: p <= 0.05 means that the value beats all 19, which
one of 20 equally likely orders does. `benchmarks/power.py` repeats it at other sizes, and asks how often something that is there is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from jaxtyping import config

from harness.metrics import comparison, paired, two_sample
from harness.registry import load, names
from harness.scores import score

TRIALS, PERMUTATIONS, LEVEL = 1000, 19, 0.05
LOWEST, HIGHEST = 0.03, 0.07  # 2.9 standard errors of 1000 trials either way
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "c2st": {"folds": 2, "products": 0},
    **dict.fromkeys(("edit_distance_knn", "lcs_knn", "mutual_knn"), {"topk": 5}),  # topk squared steps; ties that clearly count
    "cycle_knn": {"topk": 4},  # with 10 of 24 samples nearly every cycle closes, and all values are 1
    "svcca": {"dim": 2},
    "sliced_wasserstein": {"projections": 16},
}
# 20 times two classifiers a trial are 0.2 s or more. Of 40 trials up to 6 are within what 5 % gives (binomial, 0.4 % are above), and none says
# little; benchmarks/power.py runs 1000.
FEWER: Mapping[str, int] = {"c2st": 40}
MOST_OF_FEWER = 0.15
# A value that equals one of its permutations does not beat it. Where that is common, less than 5 % is rejected: as much as the ties among the
# values allow, which `allowed` says. Any metric that is allowed less than TIES has to stand here, and no other may.
TIES = 0.045
TIED: Mapping[str, str] = {
    "cycle_knn": "a number of 24 samples",
    "edit_distance_knn": "a sum of 24 whole numbers up to 5",
    "ks": "a share of five features, 0 in nearly all null trials and so in most permutations",
    "lcs_knn": "a sum of 24 whole numbers up to 5",
    "mutual_knn": "a number of 120 neighbours",
}
METRICS = {name: metric for name in names("metrics") if comparison(metric := load("metrics", name)) is not None}
PAIRED = sorted(name for name, metric in METRICS.items() if comparison(metric).kind == "paired")
TWO_SAMPLE = sorted(METRICS.keys() - set(PAIRED))


class Null(NamedTuple):
    """Two feature sets with nothing to be found between them, and what `score` is told of their rows."""

    x: np.ndarray
    y: np.ndarray
    told: Mapping[str, Any] = {}


Draw = Callable[[np.random.Generator], Null]


@pytest.fixture(autouse=True, scope="module")
def shapes_unchecked() -> Iterator[None]:
    """Half a million calls: checking the annotations of each would take three times as long, and other tests do."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def independent(rng: np.random.Generator) -> Null:
    """Features of the same 24 samples, one side skewed."""
    return Null(rng.standard_normal((24, 5)), rng.standard_exponential((24, 5)))


def one_distribution(rng: np.random.Generator) -> Null:
    """24 and 32 rows of one skewed, correlated distribution."""
    rows = rng.standard_exponential((56, 5)) @ (np.eye(5) + 0.3)
    return Null(rows[:24], rows[24:])


def twins(rng: np.random.Generator) -> Null:
    """Both sides see the same 24 samples, with noise of one kind."""
    sample = rng.standard_exponential((24, 5))
    return Null(*(sample + 0.5 * rng.standard_normal(sample.shape) for _ in range(2)), {"pairs": True})


def episodes(rng: np.random.Generator, *, shared: bool = False, lengths: tuple[int, ...] = (4,) * 12, told: bool = True) -> Null:
    """Frames of 12 episodes, alike within an episode on either side; with `shared`, two noisy views of the same frames."""
    group = np.repeat(np.arange(len(lengths)), lengths)
    sample = rng.standard_normal((len(group), 5)) if shared else 0.0
    x, y = (sample + rng.standard_normal((len(lengths), 5))[group] + 0.5 * rng.standard_normal((len(group), 5)) for _ in range(2))
    return Null(x, y, ({"groups": group} if told else {}) | ({"pairs": True} if shared else {}))


class Trials(NamedTuple):
    """The share of trials at p <= 0.05, and their values."""

    share: float
    values: np.ndarray

    @property
    def allowed(self) -> float:
        """How often one of 20 such values beats the 19 others: 5 % less what ties take away."""
        _, counts = np.unique(self.values.round(9), return_counts=True)
        shares = counts / counts.sum()
        return float(shares @ (shares.cumsum() - shares) ** PERMUTATIONS)


def trials(metric: Callable[..., Any], draw: Draw, count: int = TRIALS, **options: Any) -> Trials:
    nulls = (draw(np.random.default_rng([trial, 6])) for trial in range(count))
    found = [score(metric, x, y, **told, draws=0, permutations=PERMUTATIONS, seed=trial, **options) for trial, (x, y, told) in enumerate(nulls)]
    # Of a metric that is extreme below, the lowest value beats the others.
    sign = 1 if (comparison(metric).kind == "paired") == (comparison(metric).closer == "higher") else -1
    return Trials(float(np.mean([one.p_value <= LEVEL for one in found])), sign * np.array([one.value for one in found]))


def complaint(name: str, found: Trials) -> str:
    """What is wrong with the share of rejections; nothing if it is within what chance gives where `allowed` are possible."""
    if name in FEWER:
        lowest, highest = 0.0, MOST_OF_FEWER
    elif (found.allowed < TIES) != (name in TIED):
        advice = "it needs no exception" if name in TIED else "add it to TIED with the reason"
        return f"ties among its values let {name} reject {found.allowed:.1%}: {advice}"
    else:
        lowest, highest = max(found.allowed - (LEVEL - LOWEST), 0.0) if name in TIED else LOWEST, HIGHEST
    return "" if lowest <= found.share <= highest else f"{name} is called evidence in {found.share:.1%} of null trials, not in {lowest:.1%} to {highest:.1%}"


def assert_calibrated(name: str, draw: Draw) -> None:
    wrong = complaint(name, trials(METRICS[name], draw, FEWER.get(name, TRIALS), **OPTIONS.get(name, {})))
    assert not wrong, wrong


@pytest.mark.parametrize("name", PAIRED)
def test_independent_features_are_called_alike_in_one_trial_of_twenty(name: str) -> None:
    assert_calibrated(name, independent)


@pytest.mark.parametrize("name", TWO_SAMPLE)
def test_two_samples_of_one_distribution_are_called_apart_in_one_trial_of_twenty(name: str) -> None:
    assert_calibrated(name, one_distribution)


@pytest.mark.parametrize("name", sorted(set(TWO_SAMPLE) - set(FEWER)))
def test_two_views_of_the_same_samples_are_called_apart_in_one_trial_of_twenty(name: str) -> None:
    assert_calibrated(name, twins)


EPISODES = {"cka": episodes, "mean_shift": partial(episodes, shared=True)}


@pytest.mark.parametrize("name", EPISODES)
def test_whole_episodes_are_called_evidence_in_one_trial_of_twenty(name: str) -> None:
    assert_calibrated(name, EPISODES[name])


@pytest.mark.parametrize("name", EPISODES)
def test_frames_taken_for_independent_are_called_evidence_too_often(name: str) -> None:
    assert trials(METRICS[name], partial(EPISODES[name], told=False), 200).share > 2 * HIGHEST


UNEQUAL = (2, 3, 3, 4, 4, 4, 5, 5, 6, 7, 8, 9)


def test_episodes_of_unequal_length_are_called_apart_in_one_trial_of_twenty() -> None:
    assert_calibrated("mean_shift", partial(episodes, shared=True, lengths=UNEQUAL))


def test_episodes_of_unequal_length_are_called_alike_in_one_trial_of_twenty() -> None:
    assert_calibrated("cka", partial(episodes, lengths=UNEQUAL))


def test_a_metric_whose_relabelling_is_another_statistic_is_found_out() -> None:
    def gap(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.abs(x.mean(0) - y.mean(0)).sum())

    shrunk = two_sample(relabelled=lambda pooled, labels: np.array([0.8 * gap(pooled[label], pooled[~label]) for label in labels]))(gap)
    assert "is called evidence" in complaint("shrunk", trials(shrunk, one_distribution, 200))


def test_a_metric_that_looks_at_the_order_of_the_rows_is_found_out() -> None:
    @paired()
    def in_order(x: np.ndarray, y: np.ndarray) -> float:
        return -float(np.abs(np.diff(np.concatenate([x, y], 1), axis=0)).sum())

    drifting: Draw = lambda rng: Null(*(rng.standard_normal((24, 5)).cumsum(0) for _ in range(2)))  # noqa: E731
    assert "is called evidence" in complaint("in_order", trials(in_order, drifting, 200))


def test_a_metric_that_never_finds_anything_is_found_out() -> None:
    @paired()
    def constant(x: np.ndarray, y: np.ndarray) -> float:
        return 0.5

    assert "let constant reject 0.0%" in complaint("constant", trials(constant, independent, 20))


APART, TIED_UP = np.arange(1000.0), np.repeat([0.0, 1.0], [970, 30])  # 5.0 % and 1.7 % can be rejected


@pytest.mark.parametrize(
    ("name", "share", "values", "wrong"),
    [
        ("cka", 0.03, APART, ""),
        ("cka", 0.07, APART, ""),
        ("cka", 0.029, APART, "called evidence in 2.9%"),
        ("cka", 0.071, APART, "called evidence in 7.1%"),
        ("cka", 0.017, TIED_UP, "add it to TIED"),
        ("ks", 0.017, TIED_UP, ""),
        ("ks", 0.071, TIED_UP, "called evidence"),
        ("ks", 0.05, APART, "needs no exception"),
        ("c2st", 0.15, APART, ""),
        ("c2st", 0.17, APART, "called evidence"),
    ],
)
def test_an_exception_loosens_one_side_only_and_has_to_be_needed(name: str, share: float, values: np.ndarray, wrong: str) -> None:
    found = complaint(name, Trials(share, values))
    assert wrong in found
    assert bool(wrong) == bool(found)
