"""What a plan has to know of a dataset: how many samples of each stratum each episode has, where they lie, and how much alike they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.readers import Stream
from harness.sampling._columns import Columns
from harness.sampling._episodes import labels, runs
from harness.types import Broken, Progress, Sample

__all__ = ["Survey", "stratum", "surveyed"]

NONE = "(none)"  # the value of a field that a sample lacks


@dataclass(frozen=True)
class Survey:
    """`strata`: by values of the fields, samples of each episode in the dataset's order; `shards` that hold an episode; `fields` that occur.

    `rho` is the largest intraclass correlation by episode among the components of the action (of those of the most common width), None without one.
    """

    strata: Mapping[tuple[str, ...], Mapping[str, int]]
    shards: Mapping[str, Sequence[int]]
    fields: frozenset[str]
    broken: int
    rho: float | None


def stratum(found: Mapping[str, str], by: Sequence[str]) -> tuple[str, ...]:
    """The values of the fields `by` among a sample's labels; one that is missing or blank is a value too."""
    return tuple(found.get(name) or NONE for name in by)


def surveyed(stream: Stream, by: Sequence[str], progress: Progress | None = None) -> Survey:
    """One pass over the records; what is kept grows with the number of episodes, not of samples."""
    strata: dict[tuple[str, ...], Counter[str]] = {}
    shards: dict[str, tuple[int, ...]] = {}
    fields: set[str] = set()
    actions: dict[int, Columns] = {}
    broken = 0
    for run in runs(stream):
        broken += sum(isinstance(record, Broken) and not record.left_out for record in run.records)
        samples = run.samples
        for sample in samples:
            found = labels(sample)
            fields |= found.keys()
            strata.setdefault(stratum(found, by), Counter())[run.episode] += 1
        if samples:
            shards[run.episode] = tuple(sorted({*shards.get(run.episode, ()), *run.shards}))
        _add_actions(actions, samples)
        if progress:
            progress(run.shards[-1] + 1, stream.shards, "shards read")
    usual = max(actions.values(), key=lambda columns: columns.rows, default=None)
    known = [] if usual is None else [rho for rho in usual.icc() if rho is not None]
    return Survey(strata, shards, frozenset(fields), broken, max(known, default=None))


def _add_actions(actions: dict[int, Columns], samples: Sequence[Sample]) -> None:
    """The actions of one episode, one row per sample."""
    rows: dict[int, list[np.ndarray]] = {}
    for sample in samples:
        if sample.action is not None and (row := np.ravel(sample.action)).size:
            rows.setdefault(row.size, []).append(row)
    for width, own in rows.items():
        actions.setdefault(width, Columns(width)).add(np.stack(own))
