"""The sketch against the dense definition; what moves it and what must not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import sketch as module
from harness.errors import UsageError
from harness.sketch import LEADING, _directions, sketch

PROPERTY = settings(deadline=None, max_examples=20)
PINNED = [
    0.0334377838211974, -0.630022182741258, 0.0684477088154546, 0.199466099326459,
    -0.183719013099403, -0.2941671421027, -1.36327839290236, 0.429924597757032,
]
SPECTRUM = (*(f"singular_{k + 1}" for k in range(LEADING)), "effective_rank")


def rows(n: int = 30, d: int = 12, seed: int = 0) -> np.ndarray:
    """Correlated features with a mean of their own."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


def orthogonal(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def dense(x: np.ndarray, views: np.ndarray) -> dict[str, float]:
    """The definition, with the covariance formed and a full decomposition."""
    x = x.astype(np.float64)
    mean = x.mean(0)
    covariance = sum(np.outer(row - mean, row - mean) for row in x) / len(x)
    values = np.linalg.svd(x - mean, compute_uv=False)
    values = values[values > 1e-9 * values[0]]
    found = {f"mean_at_{i:02d}": v @ mean for i, v in enumerate(views)}
    found |= {f"variance_at_{i:02d}": v @ covariance @ v for i, v in enumerate(views)}
    found |= {f"covariance_at_{i:02d}_{i + 1:02d}": views[i] @ covariance @ views[i + 1] for i in range(len(views) - 1)}
    found |= {f"singular_{k + 1}": values[k] / np.sqrt((values**2).sum()) if k < len(values) else 0.0 for k in range(LEADING)}
    shares = values / values.sum()
    return found | {"effective_rank": float(np.prod(shares**-shares))}


@pytest.mark.parametrize(("n", "d"), [(30, 12), (12, 30), (9, 5), (5, 9), (40, 40), (2, 3)])
@pytest.mark.parametrize(("size", "seed"), [(16, 0), (3, 7), (1, 0)])
def test_the_sketch_is_what_the_dense_definition_gives(n: int, d: int, size: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(n, d)
    monkeypatch.setattr(module, "BLOCK", 4)
    assert sketch(x, size=size, seed=seed) == pytest.approx(dense(x, _directions(d, size, seed)), rel=1e-9, abs=1e-12)


def test_two_rows_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_directions", lambda width, size, seed: np.array([[1.0, 0.0], [1.0, 1.0]]))
    found = sketch(np.array([[0.0, 0.0], [2.0, 4.0]]), size=2)
    assert (found["mean_at_00"], found["mean_at_01"]) == (1.0, 3.0)
    assert (found["variance_at_00"], found["variance_at_01"], found["covariance_at_00_01"]) == (1.0, 9.0, 3.0)
    assert (found["singular_1"], found["singular_2"], found["effective_rank"]) == pytest.approx((1.0, 0.0, 1.0))


def test_the_directions_are_the_ones_that_snapshots_were_accepted_with() -> None:
    assert _directions(4, 2, 0).ravel() == pytest.approx(PINNED, rel=1e-13)
    assert not np.allclose(_directions(4, 2, 1), _directions(4, 2, 0))
    assert not np.allclose(_directions(5, 2, 0)[:, :4], _directions(4, 2, 0))


def test_the_directions_are_gaussian_with_variance_one_over_the_width() -> None:
    views = _directions(2048, 16, 0) * np.sqrt(2048)
    moments = [views.mean(), (views**2).mean(), (views**3).mean(), (views**4).mean()]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.06)
    assert np.abs(views @ views.T / 2048 - np.eye(16)).max() < 0.12


@PROPERTY
@given(seed=st.integers(0, 10**6), n=st.integers(3, 40), d=st.integers(2, 20))
def test_the_order_of_the_rows_moves_nothing(seed: int, n: int, d: int) -> None:
    x = rows(n, d, seed)
    assert sketch(np.random.default_rng(seed).permutation(x)) == pytest.approx(sketch(x), rel=1e-9, abs=1e-9)


@PROPERTY
@given(seed=st.integers(0, 10**6), d=st.integers(3, 20))
def test_a_rotation_moves_the_projections_and_leaves_the_spectrum(seed: int, d: int) -> None:
    x = rows(25, d, seed)
    before, after = sketch(x), sketch(x @ orthogonal(d, seed + 1))
    assert [after[name] for name in SPECTRUM] == pytest.approx([before[name] for name in SPECTRUM], rel=1e-8, abs=1e-8)
    assert moved(before, after, "mean_at") > 1e-2
    assert moved(before, after, "variance_at") > 1e-2
    assert moved(before, after, "covariance_at") > 1e-2


def moved(before: dict[str, float], after: dict[str, float], prefix: str) -> float:
    names = [name for name in before if name.startswith(prefix)]
    return max(abs(after[name] - before[name]) for name in names) / max(abs(before[name]) for name in names)


@PROPERTY
@given(seed=st.integers(0, 10**6), d=st.integers(3, 20))
def test_two_units_exchanged_move_the_projections_and_leave_the_spectrum(seed: int, d: int) -> None:
    x = rows(25, d, seed)
    order = np.r_[1, 0, 2:d]
    before, after = sketch(x), sketch(x[:, order])
    assert [after[name] for name in SPECTRUM] == pytest.approx([before[name] for name in SPECTRUM], rel=1e-8, abs=1e-8)
    assert moved(before, after, "mean_at") > 1e-3
    assert moved(before, after, "variance_at") > 1e-3


@PROPERTY
@given(seed=st.integers(0, 10**6), factor=st.floats(1e-3, 1e3))
def test_a_factor_multiplies_means_once_and_second_moments_twice(seed: int, factor: float) -> None:
    x = rows(seed=seed)
    before, after = sketch(x), sketch(factor * x)
    power = {"mean_at": 1, "variance": 2, "covarian": 2}
    wanted = {name: value * factor ** next((p for prefix, p in power.items() if name.startswith(prefix)), 0) for name, value in before.items()}
    assert after == pytest.approx(wanted, rel=1e-7, abs=1e-9 * factor**2)


def test_a_vector_added_to_every_row_moves_the_means_only() -> None:
    x = rows()
    before, after = sketch(x), sketch(x + np.arange(12.0))
    kept = [name for name in before if not name.startswith("mean_at")]
    assert [after[name] for name in kept] == pytest.approx([before[name] for name in kept], rel=1e-9, abs=1e-9)
    assert moved(before, after, "mean_at") > 0.1


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_single_and_half_precision_are_promoted(dtype: type) -> None:
    x = rows().astype(dtype)
    assert sketch(x) == sketch(x.astype(np.float64))


def test_a_small_spread_beside_a_large_mean_keeps_its_digits() -> None:
    x = rows(200, 8)
    before, after = sketch(x), sketch(x + 1e6)
    kept = [name for name in before if not name.startswith("mean_at")]
    assert [after[name] for name in kept] == pytest.approx([before[name] for name in kept], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    "x", [np.ones((1, 5)), np.full((7, 5), 0.1), np.zeros((4, 3)), np.full((999, 3), 1e6 / 3)], ids=["one row", "constant", "zero", "many rows"]
)
def test_rows_that_do_not_differ_have_no_spectrum(x: np.ndarray) -> None:
    found = sketch(x)
    assert [found[name] for name in SPECTRUM] == [0.0] * len(SPECTRUM)
    second = [value for name, value in found.items() if name.startswith(("variance", "covariance"))]
    assert second == pytest.approx([0.0] * 31, abs=1e-18 + 1e-20 * x.max() ** 2)


@pytest.mark.parametrize(
    ("x", "size", "said"),
    [
        (np.zeros((0, 4)), 16, r"nothing to sketch(.|\n)*\(0, 4\)"),
        (np.zeros((4, 0)), 16, "nothing to sketch"),
        (np.zeros(4), 16, r"shape \(4,\)"),
        (rows(), 0, "0 directions"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), 16, r"NaN or infinity(.|\n)*1 of 2 rows"),
        (np.array([[1.0, np.inf], [1.0, 2.0]]), 16, "NaN or infinity"),
    ],
)
def test_what_cannot_be_sketched_is_refused(x: np.ndarray, size: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sketch(x, size=size)
