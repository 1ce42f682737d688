"""A comparison as data: the verdict, every place, the weights and probes beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.compare._point import PointDrift
from harness.compare._probe import ProbeDrift, worse
from harness.compare._sides import Pair
from harness.compare._verdict import Verdict
from harness.compare._weights import WeightDrift
from harness.types import Sample

__all__ = ["Comparison", "Drift"]


@dataclass(frozen=True)
class Drift:
    """The whole comparison. `points` are in the network's order: all `places` of them, or those that the bisection looked at (`quick`).

    `first` is the first place that moved, `looked` how many the bisection read to find it. `weights` by point, and `modules` in falling order of
    change, are empty where the models are not here or cannot list them: `weights_absent` says why, as `probe_absent` does. `floors` says where the noise
    floors come from.
    """

    names: tuple[str, str]
    dataset: str
    n: int
    verdict: Verdict
    first: str | None
    looked: int
    places: int
    points: tuple[PointDrift, ...]
    weights: Mapping[str, WeightDrift]
    modules: tuple[WeightDrift, ...]
    weights_absent: str | None
    probes: tuple[ProbeDrift, ...]
    probe_absent: str | None
    floors: str

    @property
    def quick(self) -> bool:
        """Whether only places that the bisection looked at were measured."""
        return len(self.points) < self.places

    @property
    def worse(self) -> list[ProbeDrift]:
        """The probes that read the task worse after than before, corrected for their number."""
        return worse(self.probes)

    def where(self, question: Callable[[PointDrift], bool]) -> list[PointDrift]:
        """The places that answer a question with yes, in the network's order."""
        return [point for point in self.points if question(point)]

    def table(self, points: Sequence[PointDrift]) -> str:
        """Some of the places as lines of text."""
        head = f"{'place':<34} {'change':>9} {'floors':>9} {'CKA':>7} {'shift':>7} {'dead':>12}"
        rows = [
            f"{point.place:<34} {point.change:>9.2g} {point.floors:>9.2g} {f'{point.cka.value:.4f}' if point.cka else '':>7} {point.shift:>7.2g} "
            f"{f'{point.dead[0]} -> {point.dead[1]}':>12}"
            for point in points
        ]
        return "\n".join([head, *rows])


class Comparison(NamedTuple):
    """The drift with what its page shows: the rows of the place that moved furthest, and the samples by id where models ran."""

    drift: Drift
    furthest: Pair
    samples: Mapping[str, Sample]
