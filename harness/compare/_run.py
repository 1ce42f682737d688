"""A whole comparison: both sides taken, their noise floors, every place measured, the weights, the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from harness.compare._divergence import first_moved
from harness.compare._drift import Comparison, Drift
from harness.compare._floors import noise_floors
from harness.compare._point import LEAST, PointDrift, point_drift
from harness.compare._probe import ProbeDrift, probe_drift
from harness.compare._same import require_same_inputs, require_same_kind, require_same_samples, shared_places
from harness.compare._sides import Pair, Place, Side, from_store, is_stored, model, places_of, readable, take
from harness.compare._verdict import Verdict, corrected, verdict
from harness.compare._weights import WeightDrift, of_point, weight_drift
from harness.errors import UsageError
from harness.readers import Stream
from harness.scores import LEAST_GROUPS
from harness.store import Store
from harness.types import Sample

__all__ = ["compare", "drift"]


def compare(
    first: str,
    second: str,
    *,
    stream: Stream | None,
    store: Store,
    reference: str | None = "minilm:real",
    quick: bool = False,
    draws: int = 50,
    batch_size: int = 16,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """The drift between two sides, each `MODEL:SCALE[=DIRECTORY][@DTYPE]` or `store:KEY`.

    `stream` holds the samples that models are run on; what the store has is not computed again. `quick` measures only what the bisection looks at.
    `reference` is the model whose embedding of the instruction a probe is asked for. Raises UsageError for sides that must not be
    compared, with the reason.
    """
    stored = [is_stored(text) for text in (first, second)]
    if all(stored):
        sides, samples, dataset = (from_store(first, store), from_store(second, store)), {}, "a stored dataset"
    elif any(stored):
        next = "harness extract the model, then name both as store:KEY"
        raise UsageError("features of the store are compared with features of the store", got=f"{first} and {second}", next=next)
    elif stream is None:
        raise UsageError("models are compared on samples", got="no dataset", expected="--dataset NAME")
    else:
        samples, dataset = readable(stream), stream.name
        sides = _taken(first, second, stream, list(samples.values()), store, batch_size, progress)
    return drift(*sides, samples=samples, store=store, reference=reference, quick=quick, draws=draws, seed=seed, dataset=dataset, progress=progress)


def _taken(first: str, second: str, stream: Stream, samples: Sequence[Sample], store: Store, batch_size: int, tell: Callable[[str], None]) -> tuple[Side, Side]:
    if len(samples) < LEAST:
        raise UsageError("too few samples to compare two models on", where=stream.name, got=len(samples), expected=f"at least {LEAST}")
    one, other = model(first), model(second)
    require_same_kind(one, other)
    require_same_inputs(one, other, samples)
    places = places_of(one, samples)
    sides = []
    for text, adapter in ((first, one), (second, other)):
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
    quick: bool = False,
    draws: int = 50,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Measures two sides place by place: each is read once, and no more than two places of each side are in memory.

    The bisection comes first, over what is pooled over all tokens; what it looks at is not measured again. Raises UsageError.
    """
    places = shared_places(first, second)
    floors = noise_floors(first, second, places, samples, store, progress)
    measured: dict[Place, PointDrift] = {}
    probes: dict[Place, ProbeDrift | str] = {}
    furthest: tuple[float, Pair] | None = None

    def measure(place: Place) -> PointDrift:
        nonlocal furthest
        if place not in measured:
            progress(f"measuring {place}")
            pair = _pair(first, second, place)
            groups = _groups(pair.sample_ids, samples)
            point = point_drift(str(place), pair.x, pair.y, pair.sample_ids, floor=floors.of[place], groups=groups, draws=draws, seed=seed)
            measured[place] = point
            told = point.change if isfinite(point.change) else 0.0  # what was all zeros has no unit, and no picture worth a page
            if furthest is None or told > furthest[0]:
                furthest = told, pair
            if reference is not None and place.pooling == "mean" and not any(isinstance(found, str) for found in probes.values()):
                probes[place] = probe_drift(pair, samples, reference, seed=seed)
        return measured[place]

    whole = [place for place in places if place.pooling == "mean"] or places
    came, looked = first_moved(whole, lambda place: measure(place).moved), len(measured)
    if came is not None:
        progress(f"the first place that moved is {came}, found by {looked} of {len(whole)} places")
    points = corrected([measure(place) for place in places if not quick or place in measured])
    if not quick:  # all are known now: a stream that moved and came back, or a span that the mean over all tokens hides
        came = next((place for place, point in zip(places, points, strict=True) if point.moved), None)
    weights, weights_absent = _weights(first, second)
    absent = next((found for found in probes.values() if isinstance(found, str)), "no reference was asked for")
    found = Drift(
        names=(first.name, second.name),
        dataset=dataset,
        n=points[0].n,
        verdict=_verdict(points, came, first, second),
        first=None if came is None else str(came),
        looked=looked,
        places=len(places),
        points=tuple(points),
        weights=of_point(weights, first.adapter) if first.adapter else {},
        modules=tuple(sorted(weights.values(), key=lambda weight: -weight.change)),
        weights_absent=weights_absent,
        probes=tuple(probes[place] for place in places if isinstance(probes.get(place), ProbeDrift)),
        probe_absent=None if any(isinstance(one, ProbeDrift) for one in probes.values()) else absent,
        floors=floors.told,
    )
    assert furthest is not None
    return Comparison(found, furthest[1], samples)


def _pair(first: Side, second: Side, place: Place) -> Pair:
    x, y = first.rows(place), second.rows(place)
    require_same_samples(x, y, place)
    return Pair(str(place), x.values, y.values, x.sample_ids)


def _groups(ids: Sequence[str], samples: Mapping[str, Sample]) -> list[str] | None:
    """Episodes where there are enough to be drawn and some have several rows, which are no independent samples."""
    episodes = [samples[name].episode or name for name in ids] if samples else [name.rpartition("/")[0] or name for name in ids]
    return episodes if LEAST_GROUPS <= len(set(episodes)) < len(ids) else None


def _verdict(points: Sequence[PointDrift], came: Place | None, first: Side, second: Side) -> Verdict:
    found = verdict(points, None if came is None else str(came))
    same = found.word == "identical" and first.keys == second.keys
    return found._replace(reason=f"{found.reason}: equal weights under equal settings are one entry of the store, run once") if same else found


def _weights(first: Side, second: Side) -> tuple[dict[str, WeightDrift], str | None]:
    """The drift by module, or why there is none."""
    if first.adapter is None or second.adapter is None:
        return {}, "only features were compared"
    try:
        return weight_drift(first.adapter, second.adapter), None
    except UsageError as error:
        return {}, error.what
