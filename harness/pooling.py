"""Pooling of token activations to one row: every pooling is a matrix of token weights, so every identity is linear.

`mean` and `last` run over all valid tokens; `mean:image.0` or `mean:text+action` over the union of the named spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import or_
from types import ModuleType
from typing import NamedTuple

from harness.errors import UnknownNameError, UsageError
from harness.types import Array, Point, TokenMap

__all__ = ["POOLINGS", "Pooler", "pool", "token_weights"]

SLICES = 8  # of the width: a float64 copy of a whole layer would cost a sixteenth of keeping all layers of a 32-layer model


def _mean(mask: Array) -> Array:
    """Equal weights over the valid tokens of each row; rows sum to 1."""
    weights = _float64(mask)
    return weights / weights.sum(1)[:, None]


def _last(mask: Array) -> Array:
    """All weight on the last valid token of each row, wherever padding stands."""
    xp = _namespace(mask)
    counted = mask.cumsum(1)
    return _float64(xp.logical_and(mask, counted == counted[:, -1:]))


def _first(mask: Array) -> Array:
    """All weight on the first valid token of each row."""
    xp = _namespace(mask)
    return _float64(xp.logical_and(mask, mask.cumsum(1) == 1))


POOLINGS: Mapping[str, Callable[[Array], Array]] = {"mean": _mean, "last": _last, "first": _first}


def token_weights(pooling: str, tokens: TokenMap) -> Array:
    """Weights (n, t) in float64, each row summing to 1, zero on padding and outside the named spans.

    Raises UnknownNameError for a pooling or span that does not exist, UsageError for a row without a valid token.
    """
    kind, sign, spans = pooling.partition(":")
    if kind not in POOLINGS:
        raise UnknownNameError("pooling", kind, POOLINGS)
    mask = tokens.mask
    if sign:
        mask = reduce(or_, (_span(name, tokens) for name in spans.split("+"))) & mask
    empty = [row for row, count in enumerate(mask.sum(1).tolist()) if count == 0]
    if empty:
        raise UsageError(
            f"pooling {pooling!r} has no token to pool in row {empty[0]}",
            got=f"{len(empty)} of {mask.shape[0]} rows are empty",
            expected="at least one valid token in every row",
        )
    with _double(mask):
        return POOLINGS[kind](mask)


class Pooler(NamedTuple):
    """The reduction a capture applies on the device: tokens (n, t, d) to rows (n, d) by the token weights (n, t) of a point's stack.

    A pytree, so that a compiled program takes the weights as arguments and pools inside.
    """

    weights: Mapping[str, Array]

    def __call__(self, point: Point, values: Array) -> Array:
        return pool(values, self.weights[point.stack])


def pool(values: Array, weights: Array) -> Array:
    """Rows (n, d) in float32: the weighted sum of `values` (n, t, d) over tokens, accumulated in float64.

    Tokens of weight zero never matter, whatever they hold (NaN included). Raises UsageError when the shapes disagree.
    """
    if values.ndim != 3 or tuple(values.shape[:2]) != tuple(weights.shape):
        raise UsageError(
            "the token weights do not fit the activations",
            got=f"activations {tuple(values.shape)}, weights {tuple(weights.shape)}",
            expected="activations (n, t, d) with weights (n, t): a mask of the captured sequence, images included",
        )
    xp = _namespace(values)
    step = max(1, -(-values.shape[2] // (1 if xp.__name__.startswith("jax") else SLICES)))
    with _double(values):
        used, row = (weights != 0)[:, :, None], weights[:, None, :]
        sums = [row @ _float64(xp.where(used, values[:, :, start : start + step], 0.0)) for start in range(0, values.shape[2], step)]
        return _float32(xp.concatenate(sums, -1)[:, 0, :])


def _span(name: str, tokens: TokenMap) -> Array:
    if name not in tokens.spans:
        raise UnknownNameError("span", name, tokens.spans)
    return tokens.spans[name]


def _namespace(x: Array) -> ModuleType:
    if type(x).__module__.startswith("torch"):
        import torch

        return torch
    if type(x).__module__.startswith("jax"):
        import jax.numpy

        return jax.numpy
    import numpy

    return numpy


def _double(x: Array) -> AbstractContextManager[object]:
    """Within: 64-bit numbers exist. Only jax has to be asked for them."""
    if not type(x).__module__.startswith("jax"):
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def _float64(x: Array) -> Array:
    return x.double() if hasattr(x, "double") else x.astype("float64")


def _float32(x: Array) -> Array:
    return x.float() if hasattr(x, "float") else x.astype("float32")
