"""An alignment as JSON, with the keys of document 004's script and more beside them, and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from typing import Any

from harness.alignment._table import EPS, Alignment
from harness.scores import Score

__all__ = ["as_json", "as_table", "draws_json", "number", "versions"]

LIBRARIES = ("vla-harness", "numpy", "torch")


def as_json(found: Alignment, *, now: datetime | None = None) -> dict[str, Any]:
    """`_meta` and `models` as compute_cknna.py writes them; `scores` are exact, `across_episodes` without neighbours of the same episode."""
    reference, episodes = found.reference, found.episodes
    return {
        "_meta": {
            "timestamp": (now or datetime.now()).strftime("%Y-%m-%d %H:%M:%S"),  # noqa: DTZ005 - the published key is local time
            "feats_B_path": reference.asked,
            "feats_B_shape": list(reference.values.shape),
            "N": len(reference.values),
            "k_values": list(found.topk),
            "eps": EPS,
            "eps_of_scores": 0.0,
            "normalize": True,
            "arguments": "x = feats_A, y = feats_B",
            **draws_json(found),
            "metadata_path": None if episodes is None else str(episodes.path),
            "episodes": None if episodes is None else episodes.count,
            "notes": list(found.notes),
            "versions": versions(),
        },
        "models": {
            model.label: {
                "feats_A_path": model.rows.asked,
                "feats_A_dim": model.rows.values.shape[1],
                **model.published,
                "scores": _scores(model.scores),
                "across_episodes": _scores(model.across_episodes),
            }
            for model in found.models
        },
    }


def as_table(found: Alignment) -> tuple[list[str], list[list[str]]]:
    """A header and a row for every model and metric."""
    header = ["model", "metric", "neighbours", "published", "value", "interval", "null band", "p", "n"]
    rows = []
    for model in found.models:
        for kind, scores in (("all", model.scores), ("other episodes", model.across_episodes)):
            for name, one in scores.items():
                published = model.published.get(name) if kind == "all" else None
                told = ["" if published is None else number(published), number(one.value), _band(one.low, one.high), _band(one.null_low, one.null_high)]
                rows.append([model.label, name, kind, *told, number(one.p_value, 3), str(one.n)])
    return header, rows


def draws_json(found: Any) -> dict[str, int]:
    """How many permutations and halves, and the seed."""
    return {"permutations": found.draws.permutations, "draws": found.draws.draws, "seed": found.draws.seed}


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def _score(one: Score) -> dict[str, float | int | None]:
    """The fields of a score; null in place of what was not asked for."""
    return {name: None if math.isnan(value) else value for name, value in one._asdict().items()}


def number(value: float, digits: int = 4) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}g}" if abs(value) < 1e-3 and value else f"{value:.{digits}f}"


def _scores(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: _score(one) for name, one in scores.items()}


def _band(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{number(low)} to {number(high)}"
