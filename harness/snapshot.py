"""The syrupy extension: one JSON file of statistics for each snapshot, compared field by field within a tolerance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, NamedTuple

from syrupy.extensions.json import JSONSnapshotExtension
from syrupy.types import SerializedData

__all__ = ["Moved", "StatisticsExtension", "explanation", "moved_fields", "noise_floors", "told_in"]

Fields = Mapping[str, float]
Unit = Callable[[str, Fields], float]
LISTED, PROJECTED = 4, ("mean", "covariance", "spectrum")  # at most so many fields of these kinds are told
NUMERICS = 10.0  # noise floors: below, another kernel, thread count or library explains a move
KEPT = 0.02  # of the largest move: what moved less is what a change has kept, and not only moved a little


class Kind(NamedTuple):
    """Fields that are judged alike: a move beyond `relative` times `unit` is one. `scale` is what one noise floor is a fraction of."""

    names: str
    relative: float
    unit: Unit
    scale: Unit


class Moved(NamedTuple):
    """A field that left its tolerance; None where it is absent on one side."""

    accepted: float | None
    measured: float | None
    tolerance: float


def _spread(name: str, fields: Fields) -> float:
    return abs(fields.get("spread", fields.get("std", 0.0)))


def _level(name: str, fields: Fields) -> float:
    return max(abs(fields[name]), abs(fields.get("std", 0.0)))


def _second(name: str, fields: Fields) -> float:
    return max(abs(fields[name]), _spread(name, fields) ** 2)


def _own(name: str, fields: Fields) -> float:
    return abs(fields[name])


KINDS: Mapping[str, Kind] = {  # float noise between CPUs is below 1e-4 of these units
    "count": Kind(r"n|d|dead|outlying", 0.0, lambda name, fields: 0.0, lambda name, fields: 0.0),
    "entry": Kind(r"mean|std|q\d\d", 1e-3, _level, _spread),
    "extreme": Kind(r"min|max", 1e-3, _level, _spread),
    "length": Kind(r"row_norm", 1e-3, _level, lambda name, fields: _spread(name, fields) * fields.get("d", 1.0) ** 0.5),
    "spread": Kind(r"spread", 1e-3, _level, _spread),
    "mean": Kind(r"mean_at_\d+", 1e-3, _level, _spread),
    "covariance": Kind(r"(co)?variance_at_[\d_]+", 1e-3, _second, _second),
    "spectrum": Kind(r"singular_\d+", 1e-3, lambda name, fields: 1.0, lambda name, fields: 1.0),
    "rank": Kind(r"effective_rank", 1e-3, _own, _own),
}
OTHER = Kind(r".*", 1e-3, _level, _spread)


def kind_of(name: str) -> str | None:
    """The kind of a field by its name; None for one that is judged like an entry and takes part in no explanation."""
    return next((kind for kind, one in KINDS.items() if re.fullmatch(one.names, name)), None)


def moved_fields(accepted: Fields, measured: Fields) -> dict[str, Moved]:
    """Fields whose value left its tolerance; NaN is never within one."""
    moved = {}
    for name in [*accepted, *sorted(measured.keys() - accepted.keys())]:
        old, new = accepted.get(name), measured.get(name)
        kind = KINDS.get(kind_of(name) or "", OTHER)
        tolerance = 0.0 if old is None or not kind.relative else kind.relative * kind.unit(name, accepted)
        if old is None or new is None or not abs(new - old) <= tolerance:
            moved[name] = Moved(old, new, tolerance)
    return moved


def noise_floors(name: str, moved: Moved, accepted: Fields, floor: float | None) -> float | None:
    """How many times the noise floor of the features a field moved, counting the floor as a fraction of what the field measures.

    A feature that moves by the floor (relative to the spread over samples) moves means and quantiles by up to that fraction of the
    spread, second moments by that of the variance, shares of the spectrum by that of 1. None for counts, and without a floor.
    """
    scale = None if moved.accepted is None or moved.measured is None else KINDS.get(kind_of(name) or "", OTHER).scale(name, accepted)
    return abs(moved.measured - moved.accepted) / (floor * scale) if floor and scale else None


def explanation(accepted: Fields, measured: Fields, floor: float | None = None) -> str:
    """What would explain the pattern of moved fields, in a sentence; `floor` is the relative noise floor of the features."""
    moved = moved_fields(accepted, measured)
    if lost := sorted(name for name, one in moved.items() if one.accepted is None or one.measured is None):
        return f"other fields are measured now ({', '.join(lost[:3])}{' …' if len(lost) > 3 else ''}): nothing is said of the features"
    for name, why in (("n", "other samples: nothing else can be compared"), ("d", "features of another width: another point or model")):
        if name in moved:
            return f"{why} ({name} was {moved[name].accepted:g}, is {moved[name].measured:g})"
    kinds = {kind_of(name) for name in moved}
    floors = [noise_floors(name, one, accepted, floor) for name, one in moved.items()]
    if kinds - {"count"} and all(told is not None and told <= NUMERICS for told in floors):
        return f"numerics: nothing moved more than {max(floors):.1f} noise floors; another kernel, thread count, machine or library version"
    if "spread" in moved and measured["spread"] <= 1e-6 * accepted["spread"]:
        return "every row is alike now: no input reaches the features, or one sample is taken again and again"
    if "dead" in moved and measured["dead"] > accepted["dead"]:
        more = measured["dead"] - accepted["dead"]
        return f"{more:g} more features are constant over samples: zeroed or saturated units, or an input that no longer reaches them"
    return _linear(accepted, measured) or _other(accepted, measured, set(moved))


def _moves(accepted: Fields, measured: Fields) -> dict[str, float]:
    """By kind, how far its fields moved at most, as a fraction of the kind's unit."""
    found = dict.fromkeys(KINDS, 0.0)
    for name in accepted.keys() & measured.keys():
        if (kind := kind_of(name)) is not None and (unit := KINDS[kind].unit(name, accepted)):
            found[kind] = max(found[kind], abs(measured[name] - accepted[name]) / unit)
    return found


def _linear(accepted: Fields, measured: Fields) -> str | None:
    """One factor, a permutation, a rotation, an added vector: what each leaves alone tells them apart."""
    moves = _moves(accepted, measured)
    most = KEPT * min(1.0, max(moves.values()))
    kept = {kind for kind, move in moves.items() if move <= most}
    factor = measured.get("spread", 0.0) / (accepted.get("spread", 0.0) or 1.0)
    if factor and max(_moves({name: _times(name, value, factor) for name, value in accepted.items()}, measured).values()) <= most:
        return f"everything is {factor:.4g} times what it was: a norm or a scale that is missing, or applied twice"
    if kept >= {"entry", "extreme", "length", "spread", "spectrum", "rank"}:
        return "a permutation of the units: all entries, lengths and the spectrum are as they were, and other units hold them"
    if kept >= KINDS.keys() - {"extreme", "count"}:
        return "a few entries: single outliers came or went, the rest is as it was"
    if kept >= {"length", "spread", "spectrum", "rank"}:
        return "a rotation of the features: lengths and the spectrum are as they were, and other directions hold them"
    if kept >= {"spread", "covariance", "spectrum", "rank"}:
        by = measured["mean"] - accepted["mean"]
        left = _moves({name: value + by if name != "std" and kind_of(name) in ("entry", "extreme") else value for name, value in accepted.items()}, measured)
        if left["entry"] <= most and left["extreme"] <= most:
            return f"a shift: {by:+.4g} was added to every feature, and nothing else changed"
        return "a shift: one vector was added to every row (a bias, an offset, a mean that is no longer subtracted)"
    if kept >= {"entry", "extreme", "spread", "mean"}:
        return "features no longer go together: every one is as it was, but their values belong to other rows (parts joined in another order)"
    return None


def _other(accepted: Fields, measured: Fields, moved: set[str]) -> str:
    ratio = measured.get("spread", 1.0) / (accepted.get("spread", 1.0) or 1.0)
    if ratio < 0.5:
        return f"rows differ less from each other (spread x {ratio:.2g}): an input reaches the features no longer, or only in part"
    if "outlying" in moved:
        return f"features of outlying magnitude: {accepted['outlying']:g} then, {measured['outlying']:g} now: another place among the norms, or another layer"
    moves = _moves(accepted, measured)
    if max(moves[kind] for kind in ("entry", "extreme", "length", "spread", "mean")) < 0.1:
        return "a little of everything: weights trained on, rounded or quantised, another preprocessing or library version"
    return "everything moved, by no single factor, shift or rotation: another model, layer, norm, pooling or input"


def _times(name: str, value: float, factor: float) -> float:
    kind = kind_of(name)
    return value * factor**2 if kind == "covariance" else value if kind in ("count", "spectrum", "rank", None) else value * factor


class StatisticsExtension(JSONSnapshotExtension):
    """Accepts a snapshot when no field of it moved; the difference it prints is a table a person can act on."""

    noise: ClassVar[Callable[[], float | None]] = staticmethod(lambda: None)

    def matches(self, *, serialized_data: SerializedData, snapshot_data: SerializedData) -> bool:
        return not moved_fields(json.loads(snapshot_data), json.loads(serialized_data))

    def diff_lines(self, serialized_data: SerializedData, snapshot_data: SerializedData) -> Iterator[str]:
        accepted, measured = json.loads(snapshot_data or "{}"), json.loads(serialized_data)
        moved, floor = moved_fields(accepted, measured), self.noise() if accepted else None
        yield f"{'field':<20} {'accepted':>14} {'measured':>14} {'difference':>12} {'noise floors':>13} {'tolerance':>12}"
        for kind in (*KINDS, None):
            names = [name for name in moved if kind_of(name) == kind]
            listed = LISTED if kind in PROJECTED and accepted else len(names)
            for name in names[:listed]:
                yield _row(name, moved[name], noise_floors(name, moved[name], accepted, floor))
            if len(names) > listed:
                yield f"… and {len(names) - listed} more of the {kind}"
        if accepted:
            yield f"would be explained by {explanation(accepted, measured, floor)}"
        if floor:
            yield f"one noise floor is {floor:.2g} of the spread over samples, measured on this machine"
        yield "accept the measured values with --snapshot-update, once you know why they moved"


def told_in(floor: Callable[[], float | None]) -> type[StatisticsExtension]:
    """The extension whose failure text tells differences in multiples of `floor()`, which is asked only when something moved."""

    class Told(StatisticsExtension):
        noise = staticmethod(floor)

    return Told


def _row(name: str, one: Moved, floors: float | None) -> str:
    difference = "" if one.accepted is None or one.measured is None else f"{one.measured - one.accepted:+.3g}"
    told = "" if floors is None else f"{floors:.3g}"
    return f"{name:<20} {_number(one.accepted):>14} {_number(one.measured):>14} {difference:>12} {told:>13} {one.tolerance:>12.3g}"


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.6g}"
