"""Which rows of two feature sets describe the same samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.alignment._episodes import numbers
from harness.alignment._rows import Rows
from harness.errors import UsageError

__all__ = ["Match", "match"]

SHARED = "--shared takes the samples that both have"


class Match(NamedTuple):
    """Rows of x and of y, one of each for every sample (n,), and what had to be done for it; `whole` where all rows stand in order."""

    x: np.ndarray
    y: np.ndarray
    whole: bool
    note: str = ""


def match(x: Rows, y: Rows, *, shared: bool = False) -> Match:
    """Rows by sample id where both sides know them, else by place. Other samples on one side are refused unless `shared`.

    Where one side alone has ids and they are numbers of rows (as a dataset of document 004 gives them), `shared` takes those rows of the other.
    Raises UsageError that names both, with their counts.
    """
    if x.sample_ids is not None and y.sample_ids is not None:
        return _by_id(x, y, shared)
    own, other = (numbers(one.sample_ids) for one in (x, y))
    if shared and len(x.values) != len(y.values):
        if own is not None and own.max(initial=0) < len(y.values):
            return Match(np.arange(len(own)), own, False, f"{x.where}: its {len(own)} samples are those rows of the {len(y.values)} of {y.where}")
        if other is not None and other.max(initial=0) < len(x.values):
            return Match(other, np.arange(len(other)), False, f"{y.where}: its {len(other)} samples are those rows of the {len(x.values)} of {x.where}")
    if len(x.values) != len(y.values):
        got = f"{len(x.values)} rows in {x.where}, {len(y.values)} rows in {y.where}"
        known = shared or (own is None and other is None)
        advice = "take both of the same samples" if known else f"{SHARED}: the ids of one side are numbers of rows"
        raise UsageError("the two do not describe the same samples", got=got, expected="one row of each for every sample", next=advice)
    rows = np.arange(len(x.values))
    return Match(rows, rows, True)


def _by_id(x: Rows, y: Rows, shared: bool) -> Match:
    assert x.sample_ids is not None and y.sample_ids is not None
    datasets = f"{x.where} and {y.where}: the ids agree, the digests of the datasets do not" if x.dataset and y.dataset and x.dataset != y.dataset else ""
    if x.sample_ids == y.sample_ids:
        rows = np.arange(len(x.sample_ids))
        return Match(rows, rows, True, datasets)
    places = {name: row for row, name in enumerate(y.sample_ids)}
    pairs = [(row, places[name]) for row, name in enumerate(x.sample_ids) if name in places]
    if not pairs or (len(pairs) < max(len(x.sample_ids), len(y.sample_ids)) and not shared):
        known = set(x.sample_ids)
        got = ", ".join([_only(x, [name for name in x.sample_ids if name not in places]), _only(y, [name for name in y.sample_ids if name not in known])])
        advice = SHARED if pairs else "take both of the same samples"
        raise UsageError("the two do not describe the same samples", got=got, expected="the same sample ids", next=advice)
    rows = np.array(pairs)
    some = len(pairs) < max(len(x.values), len(y.values))
    counts = f"{len(pairs)} shared samples of {len(x.values)} and {len(y.values)}" if some else "other order of the same samples"
    return Match(rows[:, 0], rows[:, 1], False, "; ".join(filter(None, [f"{x.where} and {y.where}: {counts}", datasets])))


def _only(side: Rows, names: list[str]) -> str:
    return f"{len(names)} of {len(side.values)} only in {side.where}" + (f" ({', '.join(names[:3])} …)" if names else "")
