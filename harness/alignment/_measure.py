"""One paired metric of two feature sets with its interval and null band; what several values share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from inspect import signature
from typing import Any

import numpy as np

from harness import registry
from harness.errors import UsageError
from harness.metrics import comparison
from harness.scores import Score, score

__all__ = ["Asked", "Draws", "bytes_of", "measure", "paired_metric", "prepared", "require_topk"]


@dataclass(frozen=True)
class Draws:
    """How much chance goes into an interval and a null band, and where it starts."""

    permutations: int = 200
    draws: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """A metric; `topk` is None where it knows no neighbours. `name` is the key that document 004's script gives it."""

    metric: str
    function: Callable[..., Any]
    topk: int | None = None

    @property
    def name(self) -> str:
        return self.metric if self.topk is None else f"{self.metric}_k{self.topk}"

    @property
    def knows_episodes(self) -> bool:
        """Whether neighbours within an episode can be left out of it."""
        return "groups" in _names(comparison(self.function).prepare)

    def given(self) -> dict[str, Any]:
        return {} if self.topk is None else {"topk": self.topk}


def paired_metric(name: str, topk: Sequence[int]) -> tuple[Asked, ...]:
    """The metric at every k, or once where it has no neighbours. Raises UnknownNameError, UsageError for one that compares no pairs."""
    function = registry.load("metrics", name)
    found = comparison(function)
    if found is None or found.kind != "paired":
        known = sorted(other for other in registry.names("metrics") if (told := comparison(registry.load("metrics", other))) and told.kind == "paired")
        kind = "one feature set" if found is None else "two samples of the same features"
        raise UsageError(f"{name} compares no two views of the same samples", got=f"a metric of {kind}", expected=", ".join(known))
    return tuple(Asked(name, function, k) for k in topk) if "topk" in _names(function) else (Asked(name, function),)


def require_topk(topk: Sequence[int], n: int, where: object, *, groups: np.ndarray | None = None, draws: int = 0) -> None:
    """Raises UsageError for numbers of neighbours that repeat, or that the samples or a random half of them cannot have.

    A half takes `groups` whole, and their members are no neighbours of each other; None is every sample for itself.
    """
    sizes = np.ones(n, np.int64) if groups is None else np.sort(np.unique(groups, return_counts=True)[1])
    own = int(sizes[-1])
    half = int(sizes[: (len(sizes) + 1) // 2].sum()) if draws else n
    got = f"topk {', '.join(map(str, topk)) or 'none'} of {n} samples" + (f", {own} of them in one episode" if own > 1 else "")
    if not topk or len(set(topk)) != len(topk) or min(topk) < 1 or max(topk) > n - own:
        raise UsageError("numbers of neighbours do not fit the samples", where=where, got=got, expected=f"different numbers from 1 to {n - own}")
    if max(topk) > half - own:
        expected = f"at most {half - own} neighbours: a random half may hold {half} samples"
        raise UsageError("numbers of neighbours do not fit half of the samples", where=where, got=got, expected=expected, next="--draws 0 gives no interval")


def prepared(values: np.ndarray, asked: Sequence[Asked], *, episodes: np.ndarray | None = None, device: str = "cpu") -> dict[Callable[..., Any] | None, Any]:
    """One side ready for every metric, by what prepares it: neighbours are found once for all k and all metrics that need them.

    With `episodes`, neighbours of a sample's own episode are left out.
    """
    found: dict[Callable[..., Any] | None, Any] = {}
    for one in asked:
        prepare = comparison(one.function).prepare
        if prepare is None:
            found[None] = values
        elif prepare not in found:
            same = [other.topk for other in asked if other.topk is not None and comparison(other.function).prepare is prepare]
            given = {"topk": max(same, default=None), "groups": episodes, "device": device}
            found[prepare] = prepare(values, **{name: value for name, value in given.items() if name in _names(prepare) and value is not None})
    return found


def measure(one: Asked, x: Mapping[Any, Any], y: Mapping[Any, Any], *, episodes: np.ndarray | None, draws: Draws) -> Score:
    """The metric of two prepared sides; the interval and the null band draw whole episodes. Exact: eps 0."""
    key = comparison(one.function).prepare
    chance = {"permutations": draws.permutations, "draws": draws.draws, "seed": draws.seed}
    return score(one.function, x[key], y[key], groups=episodes, **chance, **one.given())


def bytes_of(value: object) -> int:
    """Bytes of the arrays in an array, a dataclass or a collection of them."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, tuple | list):
        return sum(map(bytes_of, value))
    if hasattr(value, "element_size"):
        return value.element_size() * value.nelement()
    return sum(bytes_of(getattr(value, field.name)) for field in fields(value)) if is_dataclass(value) and not isinstance(value, type) else 0


def _names(function: Callable[..., Any] | None) -> tuple[str, ...]:
    return () if function is None else tuple(signature(function).parameters)
