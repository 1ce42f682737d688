"""A whole comparison: both sides taken, their noise floors, every place measured, the weights, the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.adapters import Adapter
from harness.compare._divergence import first_moved
from harness.compare._point import LEAST, PointDrift, moved_by, point_drift
from harness.compare._probe import ProbeDrift, probe_drift
from harness.compare._same import require_same_inputs, require_same_kind, shared_places
from harness.compare._sides import Place, Side, from_store, is_stored, model, places_of, readable, take
from harness.compare._verdict import NOISE, Verdict, verdict
from harness.compare._weights import WeightDrift, of_point, weight_drift
from harness.errors import UsageError
from harness.memo import Memo
from harness.noise import AXES, EQUAL, noise_floor
from harness.readers import Stream
from harness.store import Store
from harness.types import Sample

__all__ = ["Drift", "compare", "drift"]

FLOOR_SAMPLES = 16
UNMEASURED = 1e-5  # the floor of features whose model is not here: four times what float32 does to the families measured so far


@dataclass(frozen=True)
class Drift:
    """The whole comparison. `points` are in the network's order; `weights` by point and by module are empty where the models are not here.

    `floors` says where the noise floors come from; `looked` how many places the bisection read to find `first`.
    """

    names: tuple[str, str]
    dataset: str
    n: int
    verdict: Verdict
    first: str | None
    looked: int
    points: tuple[PointDrift, ...]
    weights: Mapping[str, WeightDrift]
    modules: tuple[WeightDrift, ...]
    probes: tuple[ProbeDrift, ...]
    probe_absent: str | None
    floors: str

    @property
    def moved(self) -> list[PointDrift]:
        """The places beyond the noise."""
        return self.where(lambda point: point.floors > NOISE)

    def where(self, question: Callable[[PointDrift], bool]) -> list[PointDrift]:
        """The places that answer a question with yes, in the network's order."""
        return [point for point in self.points if question(point)]

    def table(self, points: Sequence[PointDrift]) -> str:
        """Some of the places as lines of text."""
        head = f"{'place':<34} {'change':>9} {'floors':>9} {'CKA':>7} {'shift':>7} {'dead':>10}"
        rows = [
            f"{point.place:<34} {point.change:>9.2g} {point.floors:>9.2g} {point.cka.value if point.cka else float('nan'):>7.4f} {point.shift:>7.2g} {f'{point.dead[0]} -> {point.dead[1]}':>10}"
            for point in points
        ]
        return "\n".join([head, *rows])


def compare(
    first: str,
    second: str,
    *,
    stream: Stream | None,
    store: Store,
    reference: str | None = "minilm:real",
    draws: int = 50,
    batch_size: int = 16,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Drift, tuple[Side, Side], Mapping[str, Sample]]:
    """Two sides, each `MODEL:SCALE[=DIRECTORY][@DTYPE]` or `store:KEY`; the drift, both sides' features, and the samples where models ran.

    `stream` holds the samples that models are run on. Raises UsageError for sides that must not be compared, with the reason.
    """
    tell = progress or (lambda text: None)
    if is_stored(first) and is_stored(second):
        sides, samples = tuple(from_store(text, store) for text in (first, second)), {}
    elif is_stored(first) or is_stored(second):
        raise UsageError("features of the store are compared with features of the store", got=f"{first} and {second}", next="harness extract the model, then name both as store:KEY")
    else:
        if stream is None:
            raise UsageError("models are compared on samples", got="no dataset", expected="--dataset NAME")
        samples = readable(stream)
        sides = _taken(first, second, stream, list(samples.values()), store, batch_size, tell)
    return drift(*sides, samples=samples, store=store, reference=reference, draws=draws, seed=seed, dataset=stream.name if stream else "stored", progress=tell), sides, samples


def _taken(first: str, second: str, stream: Stream, samples: Sequence[Sample], store: Store, batch_size: int, tell: Callable[[str], None]) -> tuple[Side, Side]:
    (one, name), (other, other_name) = model(first), model(second)
    require_same_kind(one, other)
    if len(samples) < LEAST:
        raise UsageError("too few samples to compare two models on", where=stream.name, got=len(samples), expected=f"at least {LEAST}")
    require_same_inputs(one, other, samples)
    places = places_of(one, samples)
    sides = []
    for text, adapter in ((name, one), (other_name, other)):
        tell(f"features of {text}: {len(places)} places of {len(samples)} samples")
        sides.append(take(text, adapter, stream, places, store, batch_size=batch_size))
    return sides[0], sides[1]


def drift(
    first: Side,
    second: Side,
    *,
    samples: Mapping[str, Sample],
    store: Store,
    dataset: str,
    reference: str | None = None,
    draws: int = 50,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Drift:
    """Measures two sides place by place; no more than one place of each is in memory, and each is read once after the bisection."""
    tell = progress or (lambda text: None)
    places = shared_places(first, second)
    floors, told = _floors(first, second, places, samples, store, tell)
    looked: dict[Place, bool] = {}

    def moved(place: Place) -> bool:
        if place not in looked:
            looked[place] = moved_by(*_pair(first, second, place)[:2]) > NOISE * floors[place]
        return looked[place]

    whole = [place for place in places if place.pooling == "mean"] or places
    came = first_moved(whole, moved)
    points, probes, absent = [], [], "no reference was asked for"
    for place in places:
        tell(f"measuring {place}")
        x, y, ids = _pair(first, second, place)
        points.append(point_drift(str(place), x, y, ids, floor=floors[place], groups=_groups(ids, samples), draws=draws, seed=seed))
        if reference is not None and place.pooling == "mean":
            found = probe_drift(str(place), x, y, ids, samples, reference, seed=seed)
            if isinstance(found, str):
                absent, reference = found, None
            else:
                probes.append(found)
    if came is None and (late := [point for point in points if point.floors > NOISE]):  # a stream of its own, or one that came back
        name = late[0].place
    else:
        name = None if came is None else str(came)
    weights = weight_drift(first.adapter, second.adapter) if first.adapter and second.adapter else {}
    return Drift(
        names=(first.name, second.name),
        dataset=dataset,
        n=points[0].n,
        verdict=verdict(points, name),
        first=name,
        looked=len(looked),
        points=tuple(points),
        weights=of_point(weights, first.adapter) if first.adapter else {},
        modules=tuple(sorted(weights.values(), key=lambda weight: -weight.change)),
        probes=tuple(probes),
        probe_absent=None if probes else absent,
        floors=told,
    )


def _pair(first: Side, second: Side, place: Place) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows of both and their ids. Raises UsageError unless they are the same samples."""
    x, y = first.rows(place), second.rows(place)
    if x.sample_ids != y.sample_ids:
        lacking = sorted(set(x.sample_ids) ^ set(y.sample_ids))
        got = f"{len(x.sample_ids)} and {len(y.sample_ids)} samples" + (f", {len(lacking)} on one side only, first {lacking[0]}" if lacking else " in another order")
        raise UsageError("these two cannot be compared: the samples are not the same", where=str(place), got=got, expected="the same samples", next="extract both from the same selection")
    return x.values, y.values, x.sample_ids


def _groups(ids: Sequence[str], samples: Mapping[str, Sample]) -> list[str] | None:
    """Episodes where there are at least four and some have several rows, which are no independent samples."""
    episodes = [samples[name].episode or name for name in ids] if samples else [name.rpartition("/")[0] or name for name in ids]
    return episodes if 4 <= len(set(episodes)) < len(ids) else None


def _floors(first: Side, second: Side, places: Sequence[Place], samples: Mapping[str, Sample], store: Store, tell: Callable[[str], None]) -> tuple[dict[Place, float], str]:
    """The noise floor of every place, and where it comes from."""
    if first.adapter is None:
        return dict.fromkeys(places, UNMEASURED), f"not measured, for no model was loaded; {UNMEASURED:g} of the spread is taken"
    adapter, memo = first.adapter, Memo(store.root / "measurements") if hasattr(store.root, "joinpath") else None
    mixed = first.adapter.runtime.dtype != second.adapter.runtime.dtype
    shown, floors = _few(samples), {}
    for pooling in dict.fromkeys(place.pooling for place in places):
        tell(f"noise floor of {first.name}, pooled by {pooling}")
        points = [place.point for place in places if place.pooling == pooling]
        found = noise_floor(adapter.subject, adapter.runtime, shown, points, axes=AXES if mixed else EQUAL, pooling=pooling, adapter=lambda: adapter, memo=memo)
        for point in points:
            rounding = found.dtype(point) if mixed else None
            floors[Place(point, pooling)] = max(found.of(point), rounding.value if rounding else 0.0)
    axes = "repeat, batch size, padding, attention kernel, threads" + (" and bfloat16 weights, because the two differ in dtype" if mixed else "")
    return floors, f"measured on {len(shown)} samples of {first.name}: {axes}"


def _few(samples: Mapping[str, Sample]) -> list[Sample]:
    chosen = list(samples.values())
    return [chosen[index] for index in np.linspace(0, len(chosen) - 1, min(FLOOR_SAMPLES, len(chosen))).astype(int)]
