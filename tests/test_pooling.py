"""Pooling is linear, blind to padding, and the same in numpy, torch and jax."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.errors import UnknownNameError, UsageError
from harness.pooling import POOLINGS, pool, token_weights
from harness.types import TokenMap

EPSILON = 2.0**-23  # of float32, the precision of a pooled row
PROPERTY = settings(deadline=None, max_examples=30)  # the first example compiles for jax


class Backend(NamedTuple):
    """One array library: how it makes an array, and the accuracy it accumulates with."""

    array: Callable[[np.ndarray], Any]
    rtol: float


def _jax(x: np.ndarray) -> Any:
    return importlib.import_module("jax.numpy").asarray(x)


def _torch(x: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x))


BACKENDS: Mapping[str, Backend] = {"numpy": Backend(np.asarray, EPSILON), "torch": Backend(_torch, EPSILON), "jax": Backend(_jax, EPSILON)}


@pytest.fixture(params=BACKENDS, scope="module")
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "jax":
        pytest.importorskip("jax", reason="jax is not installed: pip install -e '.[jax]' -c constraints.txt")
    return BACKENDS[request.param]


class Case(NamedTuple):
    """Activations (n, t, d), a mask and two disjoint spans that cover it."""

    values: np.ndarray
    mask: np.ndarray
    image: np.ndarray


@st.composite
def activations(draw: st.DrawFn, *, magnitude: float = 1e3) -> Case:
    n, t, d = (draw(st.sampled_from(sizes)) for sizes in ((1, 3), (1, 2, 6), (2,)))  # few shapes: jax compiles for each
    values = draw(hnp.arrays(np.float32, (n, t, d), elements=st.floats(-magnitude, magnitude, width=32, allow_subnormal=False)))
    mask = draw(hnp.arrays(np.bool_, (n, t)))
    mask[np.arange(n), draw(hnp.arrays(np.int64, n, elements=st.integers(0, t - 1)))] = True
    return Case(values, mask, draw(hnp.arrays(np.bool_, (n, t))))


def reference(pooling: str, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One token at a time in Python floats."""
    rows = []
    for row, valid in zip(values.tolist(), mask.tolist(), strict=True):
        tokens = [token for token, kept in zip(row, valid, strict=True) if kept]
        chosen = {"mean": tokens, "last": tokens[-1:], "first": tokens[:1]}[pooling]
        rows.append([sum(column) / len(chosen) for column in zip(*chosen, strict=True)])
    return np.array(rows)


def pooled(backend: Backend, pooling: str, values: np.ndarray, mask: np.ndarray, **spans: np.ndarray) -> np.ndarray:
    tokens = TokenMap(backend.array(mask), {name: backend.array(span) for name, span in spans.items()})
    return np.asarray(pool(backend.array(values), token_weights(pooling, tokens)))


def close(backend: Backend, got: np.ndarray, expected: np.ndarray, scale: float) -> bool:
    return bool((np.abs(got.astype(np.float64) - expected) <= 2 * backend.rtol * scale + 1e-37).all())


@pytest.mark.parametrize("pooling", POOLINGS)
@PROPERTY
@given(case=activations())
def test_every_pooling_agrees_with_one_token_at_a_time(backend: Backend, pooling: str, case: Case) -> None:
    expected = reference(pooling, case.values, case.mask)
    got = pooled(backend, pooling, case.values, case.mask)
    assert got.dtype == np.float32
    assert close(backend, got, expected, np.abs(case.values).max())


@PROPERTY
@given(case=activations())
def test_an_all_ones_mask_is_the_plain_mean(backend: Backend, case: Case) -> None:
    expected = case.values.astype(np.float64).mean(1)
    assert close(backend, pooled(backend, "mean", case.values, np.ones_like(case.mask)), expected, np.abs(case.values).max())


@pytest.mark.parametrize("pooling", POOLINGS)
@PROPERTY
@given(case=activations(), filling=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 0.0]))
def test_what_padding_holds_never_matters(backend: Backend, pooling: str, case: Case, filling: float) -> None:
    changed = np.where(case.mask[:, :, None], case.values, np.float32(filling))
    assert np.array_equal(pooled(backend, pooling, changed, case.mask), pooled(backend, pooling, case.values, case.mask))


def test_what_a_valid_token_holds_does_matter(backend: Backend) -> None:
    values = np.ones((1, 3, 2), np.float32)
    values[0, 1, 0] = np.nan
    assert np.isnan(pooled(backend, "mean", values, np.array([[True, True, False]]))[0]).tolist() == [True, False]


@PROPERTY
@given(case=activations())
def test_the_mean_of_a_union_is_the_size_weighted_mean_of_its_spans(backend: Backend, case: Case) -> None:
    spans = {"image": case.image & case.mask, "text": ~case.image & case.mask}
    kept = [name for name, span in spans.items() if span.any(1).all()]
    union = np.logical_or.reduce([spans[name] for name in kept]) if kept else None
    if union is None:
        return
    sizes = {name: spans[name].sum(1)[:, None] for name in kept}
    weighted = sum(pooled(backend, f"mean:{name}", case.values, case.mask, **spans).astype(np.float64) * sizes[name] for name in kept)
    got = pooled(backend, f"mean:{'+'.join(kept)}", case.values, case.mask, **spans)
    assert close(backend, got, weighted / sum(sizes.values()), 2 * np.abs(case.values).max())


@PROPERTY
@given(case=activations())
def test_the_union_of_spans_that_cover_the_mask_is_the_mask(backend: Backend, case: Case) -> None:
    spans = {"image": case.image, "text": ~case.image}
    assert np.array_equal(
        pooled(backend, "mean:image+text", case.values, case.mask, **spans), pooled(backend, "mean", case.values, case.mask, **spans)
    )


@PROPERTY
@given(case=activations(), copies=st.integers(1, 3))
def test_naming_a_span_twice_changes_nothing(backend: Backend, case: Case, copies: int) -> None:
    named = "+".join(["all"] * copies)
    spans = {"all": np.ones_like(case.mask)}
    assert np.array_equal(pooled(backend, f"mean:{named}", case.values, case.mask, **spans), pooled(backend, "mean", case.values, case.mask))


@pytest.mark.parametrize(
    ("mask", "last", "first"),
    [
        ([1, 1, 1, 1, 1], 4, 0),
        ([1, 1, 1, 0, 0], 2, 0),
        ([0, 0, 1, 1, 1], 4, 2),
        ([0, 1, 0, 1, 0], 3, 1),
        ([0, 0, 1, 0, 0], 2, 2),
    ],
    ids=["no padding", "right padding", "left padding", "holes", "one token"],
)
def test_first_and_last_are_valid_tokens_wherever_padding_stands(backend: Backend, mask: list[int], last: int, first: int) -> None:
    values = np.arange(10, dtype=np.float32).reshape(1, 5, 2)
    valid = np.array([mask], bool)
    assert pooled(backend, "last", values, valid).tolist() == values[:, last].tolist()
    assert pooled(backend, "first", values, valid).tolist() == values[:, first].tolist()


def test_rows_of_different_lengths_keep_their_own_last_token(backend: Backend) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]], bool)
    assert pooled(backend, "last", values, mask)[:, 0].tolist() == [1.0, 7.0, 8.0]


def test_a_pooled_span_is_limited_to_valid_tokens(backend: Backend) -> None:
    values = np.array([[[1.0], [2.0], [100.0]]], np.float32)
    mask, text = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    assert pooled(backend, "mean:text", values, mask, text=text).tolist() == [[2.0]]
    assert pooled(backend, "last:text", values, mask, text=text).tolist() == [[2.0]]


@PROPERTY
@given(case=activations(), seed=st.integers(0, 99))
def test_the_order_of_tokens_does_not_change_the_mean(backend: Backend, case: Case, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(case.mask.shape[1])
    shuffled = pooled(backend, "mean", case.values[:, order], case.mask[:, order])
    assert close(backend, shuffled, pooled(backend, "mean", case.values, case.mask).astype(np.float64), np.abs(case.values).max())


def test_the_order_of_tokens_does_change_the_last() -> None:
    values, mask = np.arange(3, dtype=np.float32).reshape(1, 3, 1), np.ones((1, 3), bool)
    assert pooled(BACKENDS["numpy"], "last", values[:, ::-1], mask).tolist() != pooled(BACKENDS["numpy"], "last", values, mask).tolist()


@pytest.mark.parametrize("pooling", POOLINGS)
@PROPERTY
@given(case=activations(), exponent=st.integers(-27, 27))
def test_scaling_the_tokens_scales_the_row_up_to_1e30(backend: Backend, pooling: str, case: Case, exponent: int) -> None:
    factor = np.float32(10.0**exponent)
    scaled = np.where(np.abs(case.values) < 1e-3, np.float32(0), case.values) * factor  # no subnormals, which jax flushes
    expected = reference(pooling, scaled, case.mask)
    assert close(backend, pooled(backend, pooling, scaled, case.mask), expected, np.abs(scaled.astype(np.float64)).max())


@PROPERTY
@given(case=activations(magnitude=64.0), factor=st.sampled_from([-2.0, 0.5, 3.0]))
def test_the_row_of_a_sum_is_the_sum_of_rows(backend: Backend, case: Case, factor: float) -> None:
    other = np.roll(case.values, 1, axis=1)
    together = pooled(backend, "mean", case.values + np.float32(factor) * other, case.mask)
    apart = pooled(backend, "mean", case.values, case.mask) + factor * pooled(backend, "mean", other, case.mask).astype(np.float64)
    assert close(backend, together, apart, 8 * np.abs(case.values).max())


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_long_sums_are_accumulated_in_float64(name: str) -> None:
    values = np.full((1, 4097, 1), 1.0, np.float32)
    values[0, 0, 0] = 2.0**26
    got = pooled(BACKENDS[name], "mean", values, np.ones((1, 4097), bool))
    assert got[0, 0] == np.float32((2.0**26 + 4096) / 4097)
    assert np.float32(2.0**26) + np.float32(1) == np.float32(2.0**26)


@pytest.mark.parametrize(
    ("values", "largest"),
    [
        (torch.full((1, 3, 1), 60000.0, dtype=torch.float16), 60000.0),
        (torch.full((1, 3, 1), 2.0**120, dtype=torch.bfloat16), 2.0**120),
        (np.full((1, 3, 1), 60000.0, np.float16), 60000.0),
    ],
    ids=["torch float16", "torch bfloat16", "numpy float16"],
)
def test_half_precision_input_is_pooled_without_overflow(values: Any, largest: float) -> None:
    mask = torch.ones(1, 3, dtype=torch.bool) if isinstance(values, torch.Tensor) else np.ones((1, 3), bool)
    row = pool(values, token_weights("mean", TokenMap(mask, {})))
    assert str(row.dtype).endswith("float32")
    assert row.item() == largest


def test_bfloat16_tokens_are_averaged_beyond_bfloat16_precision() -> None:
    values = torch.tensor([[[256.0], [258.0], [258.0]]], dtype=torch.bfloat16)
    row = pool(values, token_weights("mean", TokenMap(torch.ones(1, 3, dtype=torch.bool), {})))
    assert row.item() == pytest.approx(772 / 3, rel=1e-7)
    assert row.bfloat16().item() != pytest.approx(772 / 3, rel=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
@PROPERTY
@given(case=activations())
def test_the_weights_of_every_row_sum_to_one_and_are_zero_on_padding(pooling: str, case: Case) -> None:
    weights = token_weights(pooling, TokenMap(case.mask, {}))
    assert weights.dtype == np.float64
    assert weights.sum(1) == pytest.approx(np.ones(len(weights)), abs=1e-12)
    assert not weights[~case.mask].any()


@PROPERTY
@given(case=activations(), dtype=st.sampled_from([np.int64, np.int32, np.uint8]))
def test_a_mask_of_ones_and_zeros_is_a_mask(case: Case, dtype: type) -> None:
    got = token_weights("mean", TokenMap(case.mask.astype(dtype), {}))
    assert np.array_equal(got, token_weights("mean", TokenMap(case.mask, {})))


VALID = np.ones((2, 3), bool)
TEXT = np.array([[False, True, True], [False, False, False]])


@pytest.mark.parametrize(
    ("pooling", "error", "match"),
    [
        ("maen", UnknownNameError, r"no pooling named 'maen'; the nearest is 'mean'"),
        ("lasst:text", UnknownNameError, r"no pooling named 'lasst'; the nearest is 'last'"),
        ("", UnknownNameError, "no pooling named ''"),
        ("mean:txt", UnknownNameError, r"no span named 'txt'; the nearest is 'text'"),
        ("mean:text+imgae.0", UnknownNameError, r"no span named 'imgae.0'; the nearest is 'image.0'"),
        ("mean:text", UsageError, r"'mean:text' has no token to pool in row 1(.|\n)*1 of 2 rows are empty"),
        ("last:padding", UsageError, r"'last:padding' has no token to pool in row 0(.|\n)*2 of 2 rows are empty"),
    ],
)
def test_a_pooling_that_cannot_be_done_is_refused(backend: Backend, pooling: str, error: type[Exception], match: str) -> None:
    spans = {"image.0": ~TEXT, "text": TEXT, "padding": np.zeros_like(TEXT)}
    tokens = TokenMap(backend.array(VALID), {name: backend.array(span) for name, span in spans.items()})
    with pytest.raises(error, match=match):
        token_weights(pooling, tokens)


@pytest.mark.parametrize(
    ("shape", "weights", "match"),
    [
        ((2, 8, 4), (2, 3), r"do not fit(.|\n)*\(2, 8, 4\), weights \(2, 3\)(.|\n)*images included"),
        ((3, 3, 4), (2, 3), r"do not fit(.|\n)*\(3, 3, 4\), weights \(2, 3\)"),
        ((2, 3), (2, 3), r"do not fit(.|\n)*activations \(2, 3\)"),
        ((1, 3, 4), (2, 3), r"do not fit"),
        ((2, 1, 4), (2, 3), r"do not fit"),
    ],
    ids=["a text mask on image and text", "another batch", "already pooled", "one row to broadcast", "one token to broadcast"],
)
def test_weights_of_another_sequence_are_refused(backend: Backend, shape: tuple[int, ...], weights: tuple[int, ...], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        pool(backend.array(np.ones(shape, np.float32)), backend.array(np.ones(weights)))


def test_integer_spans_may_overlap() -> None:
    tokens = TokenMap(np.ones((1, 2), np.int64), {"text": np.array([[1, 1]]), "state": np.array([[0, 1]])})
    assert token_weights("mean:text+state", tokens).tolist() == [[0.5, 0.5]]


def test_a_colon_without_a_span_is_refused() -> None:
    with pytest.raises(UsageError):
        token_weights("mean:", TokenMap(VALID, {"text": TEXT}))
