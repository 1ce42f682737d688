"""Statistics and plans as tables for a screen and as values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from harness.sampling._plan import Plan
from harness.sampling._stats import Count, Numbers, Stats

__all__ = ["Table", "as_json", "number", "range_of_lengths", "tables"]


class Table(NamedTuple):
    """Rows for a screen under a title; long lists are cut and say how long they are."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_json(found: Stats | Plan) -> dict[str, Any]:
    """The complete lists as JSON-able values, numbers finite."""
    if isinstance(found, Stats):
        return {"holds": found.holds, "coverage": found.coverage, **asdict(found)}
    return asdict(found)


def tables(found: Stats | Plan, limit: int = 12) -> list[Table]:
    """A screen of what was found, each list cut to `limit` rows with its length."""
    return _plan_tables(found, limit) if isinstance(found, Plan) else _stats_tables(found, limit)


def number(value: float | None) -> str:
    """Four significant digits, a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def range_of_lengths(lengths: Mapping[int, int]) -> str:
    """The shortest, median and longest episode in samples."""
    if not lengths:
        return "–"
    count, half = 0, sum(lengths.values()) / 2
    for median, times in sorted(lengths.items()):  # noqa: B007 - the loop ends at the lower median
        count += times
        if count >= half:
            break
    return f"{min(lengths)} to {max(lengths)}, median {median}"


def _cut(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], limit: int) -> list[Table]:
    """The table of a list, none for an empty one."""
    if not rows:
        return []
    rest = [[f"… {len(rows) - limit} more", *[""] * (len(header) - 1)]] if len(rows) > limit else []
    return [Table(f"{title}: {len(rows)}", header, [*rows[:limit], *rest])]


def _counts(counts: Mapping[str, Count]) -> list[list[str]]:
    return [[value or "(blank)", str(count.episodes), str(count.samples)] for value, count in counts.items()]


def _columns(numbers: Sequence[Numbers]) -> list[list[str]]:
    return [
        [f"{found.shape} [{index}]", *map(number, (one.min, one.max, one.mean, one.std)), "constant" if one.constant else "", str(one.not_finite)]
        for found in numbers
        for index, one in enumerate(found.columns)
    ]


def _stats_tables(found: Stats, limit: int) -> list[Table]:
    summary = {
        "samples": str(found.samples),
        "episodes": f"{found.episodes} with samples, {found.listed} listed",
        "samples an episode": range_of_lengths(found.lengths),
        "instructions": f"{found.coverage:.1%} of the samples have one, {found.instructions} differ",
        "broken records": str(found.broken_records) + (f", and {found.left_out} left out by request" if found.left_out else ""),
        "repeated ids": str(found.repeated_ids) + (f" among {found.checked_share:.3g} of them" if found.checked_share < 1 else ""),
        "digest": found.dataset_digest,
    }
    columns = ["dimension", "min", "max", "mean", "std", "", "not finite"]
    decoded = found.decoded
    return [
        Table(found.source, ["", ""], list(map(list, summary.items()))),
        *_cut("tasks", ["task", "episodes", "samples"], _counts(found.tasks), limit),
        *(table for name, counts in found.fields.items() if counts for table in _cut(f"{name}, values", [name, "episodes", "samples"], _counts(counts), limit)),
        *_cut("actions, dimensions", columns, _columns(found.actions), 2 * limit),
        *_cut("states, dimensions", columns, _columns(found.states), 2 * limit),
        *_cut("keys", ["key", "dtype and shape"], list(map(list, found.keys.items())), 2 * limit),
        *_cut("reasons of broken records", ["records", "reason", "first"], [[str(one.count), one.reason, ", ".join(one.ids)] for one in found.broken], limit),
        *(_cut("sizes of decoded pictures", ["picture", "count"], [[size, str(count)] for size, count in decoded.sizes.items()], limit) if decoded else []),
        *(_cut("broken pictures", ["picture", "reason"], list(map(list, decoded.broken.items())), limit) if decoded else []),
        *(_cut("pictures of one colour", ["picture"], [[id] for id in decoded.flat], limit) if decoded else []),
    ]


def _plan_tables(found: Plan, limit: int) -> list[Table]:
    rows = [[*(part.stratum.values()), str(part.available), str(part.episodes), str(part.chosen), number(part.weight), part.why] for part in found.strata]
    return _cut("strata", [*found.by, "available", "episodes", "chosen", "weight", "why"], rows, max(limit, 60))
