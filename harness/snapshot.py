"""The syrupy extension: one JSON file of statistics for each snapshot, compared field by field within a tolerance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from syrupy.extensions.json import JSONSnapshotExtension
from syrupy.types import SerializedData

__all__ = ["StatisticsExtension", "moved_fields"]

COUNTS = ("n", "d", "dead", "outlying")  # must be equal
RELATIVE = 1e-3  # of the larger of the accepted value and the accepted spread; float noise between CPUs is below 1e-4


def moved_fields(accepted: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, tuple[float | None, float | None, float]]:
    """Fields whose value left its tolerance: name to accepted value, measured value and tolerance; None where absent."""
    moved = {}
    for name in [*accepted, *sorted(measured.keys() - accepted.keys())]:
        old, new = accepted.get(name), measured.get(name)
        tolerance = 0.0 if name in COUNTS or old is None else RELATIVE * max(abs(old), abs(accepted.get("std", 0.0)))
        if old is None or new is None or not abs(new - old) <= tolerance:  # NaN is never within a tolerance
            moved[name] = (old, new, tolerance)
    return moved


class StatisticsExtension(JSONSnapshotExtension):
    """Accepts a snapshot when no field of it moved; the difference it prints is a table a person can act on."""

    def matches(self, *, serialized_data: SerializedData, snapshot_data: SerializedData) -> bool:
        return not moved_fields(json.loads(snapshot_data), json.loads(serialized_data))

    def diff_lines(self, serialized_data: SerializedData, snapshot_data: SerializedData) -> Iterator[str]:
        yield f"{'field':<10} {'accepted':>14} {'measured':>14} {'difference':>12} {'tolerance':>12}"
        for name, (old, new, tolerance) in moved_fields(json.loads(snapshot_data or "{}"), json.loads(serialized_data)).items():
            difference = "" if old is None or new is None else f"{new - old:+.3g}"
            yield f"{name:<10} {_number(old):>14} {_number(new):>14} {difference:>12} {tolerance:>12.3g}"
        yield "accept the measured values with --snapshot-update, once you know why they moved"


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.6g}"
