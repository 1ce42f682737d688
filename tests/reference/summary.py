"""Summary statistics in Python floats, one entry at a time."""

from __future__ import annotations

import math
import statistics


def quantile(ordered: list[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def summary(rows: list[list[float]]) -> dict[str, float]:
    entries = sorted(entry for row in rows for entry in row)
    columns = list(zip(*rows, strict=True))
    mean = math.fsum(entries) / len(entries)
    magnitudes = [math.fsum(map(abs, column)) / len(column) for column in columns]
    variances = [math.fsum((entry - math.fsum(column) / len(column)) ** 2 for entry in column) / len(column) for column in columns]
    return {
        "n": len(rows),
        "d": len(columns),
        "mean": mean,
        "std": math.sqrt(math.fsum((entry - mean) ** 2 for entry in entries) / len(entries)),
        "min": entries[0],
        "max": entries[-1],
        **{f"q{percent:02d}": quantile(entries, percent / 100) for percent in (1, 25, 50, 75, 99)},
        "row_norm": math.fsum(math.sqrt(math.fsum(entry * entry for entry in row)) for row in rows) / len(rows),
        "spread": math.sqrt(math.fsum(variances) / len(columns)),
        "dead": sum(len(set(column)) == 1 for column in columns),
        "outlying": sum(magnitude > 6 * statistics.median(magnitudes) for magnitude in magnitudes),
    }
