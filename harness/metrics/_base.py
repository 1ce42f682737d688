"""What a metric compares, noted on its function: two views of the same samples, or two samples of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError

__all__ = ["Comparison", "comparison", "paired", "require_pair", "two_sample"]

Function = TypeVar("Function", bound=Callable[..., Any])
Side = Literal["higher", "lower"]
Relabelled = Callable[..., Float[np.ndarray, "p"]]


class Comparison(NamedTuple):
    """What a metric of two arrays compares, and what `harness.scores` may use to judge it.

    `identical` is its value for a set and itself, `closer` tells on which side of other values that lies. `prepare(x, **options)` turns one side into something that costs less to compare again
    and has `take(rows)`; the metric takes it in place of the array. `relabelled(pooled, labels, **options)` is the metric of every
    split of the pooled rows, of which the true entries of `labels` (p, n) are the first sample.
    """

    kind: Literal["paired", "two_sample"]
    identical: float
    closer: Side
    prepare: Callable[..., Any] | None = None
    relabelled: Relabelled | None = None


def paired(*, identical: float = 1.0, closer: Side = "higher", prepare: Callable[..., Any] | None = None) -> Callable[[Function], Function]:
    """Marks a metric whose two arrays describe the same samples, row by row; widths may differ."""
    return _marked(Comparison("paired", identical, closer, prepare=prepare))


def two_sample(*, identical: float = 0.0, closer: Side = "lower", relabelled: Relabelled | None = None) -> Callable[[Function], Function]:
    """Marks a metric whose two arrays hold rows of the same features; numbers of rows may differ."""
    return _marked(Comparison("two_sample", identical, closer, relabelled=relabelled))


def _marked(found: Comparison) -> Callable[[Function], Function]:
    def marked(function: Function) -> Function:
        function.comparison = found  # type: ignore[attr-defined]
        return function

    return marked


def comparison(metric: Callable[..., Any]) -> Comparison | None:
    """What a metric compares; None for a metric of one array, and for probes."""
    return getattr(metric, "comparison", None)


def require_pair(x: np.ndarray, y: np.ndarray, kind: Literal["paired", "two_sample"], *, least: int = 2) -> None:
    """Raises UsageError unless both are finite (n, d) arrays of at least `least` rows: as many rows if paired, as wide if two samples."""
    for name, rows in (("x", x), ("y", y)):
        if rows.ndim != 2 or rows.shape[1] == 0 or len(rows) < least:
            raise UsageError(f"{name} cannot be compared", got=f"shape {rows.shape}", expected=f"rows of features, at least {least} of them")
        if not np.isfinite(rows).all():
            raise UsageError(f"{name} holds NaN or infinity", got=f"{int((~np.isfinite(rows).all(1)).sum())} of {len(rows)} rows", expected="finite rows")
    if kind == "paired" and len(x) != len(y):
        raise UsageError("the two do not describe the same samples", got=f"{len(x)} and {len(y)} rows", expected="one row of each for every sample")
    if kind == "two_sample" and x.shape[1] != y.shape[1]:
        raise UsageError("the two do not have the same features", got=f"widths {x.shape[1]} and {y.shape[1]}", expected="equal widths")
