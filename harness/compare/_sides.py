"""What is compared: a model's features, taken now or found in the store, place by place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from harness import subjects
from harness.adapters import Adapter
from harness.engines.local import local
from harness.errors import UsageError
from harness.extract import Job, feature_sink, run
from harness.readers import Stream
from harness.store import Key, Store
from harness.types import Broken, Features, Point, Runtime, Sample

__all__ = ["Pair", "Place", "Side", "from_store", "is_stored", "model", "places_of", "readable", "take"]

STREAMS = ("embedding", "output", "final_norm")
READERS = ("projector", "state", "text", "lm", "expert", "act_head")  # stacks that read others, in their order
DTYPES = ("float32", "bfloat16", "float16")


class Place(NamedTuple):
    """A point of the model and the tokens that are pooled there: `mean`, or `mean:image.0`."""

    point: Point
    pooling: str

    def __str__(self) -> str:
        return str(self.point) if self.pooling == "mean" else f"{self.point} over {self.pooling.partition(':')[2] or self.pooling}"


class Pair(NamedTuple):
    """The rows of both sides at one place, and their samples' ids."""

    place: str
    x: np.ndarray
    y: np.ndarray
    sample_ids: tuple[str, ...]


@final
@dataclass(frozen=True)
class Side:
    """One of the two: its features by place, in the network's order, and the loaded model where there is one."""

    name: str
    keys: Mapping[Place, Key]
    store: Store
    adapter: Adapter | None = None

    def rows(self, place: Place) -> Features:
        """The features of one place, read anew at every call. Raises UsageError when the store lost them."""
        found = self.store.read(self.keys[place])
        if found is None:
            raise UsageError("features are no longer in the store", where=f"{self.name}, {place}", next="run the comparison again")
        return found


def model(text: str) -> Adapter:
    """The loaded model of `MODEL:SCALE[=DIRECTORY][@DTYPE]`, float32 where no dtype is named. Raises UsageError and what resolving and loading raise."""
    rest, at, dtype = text.rpartition("@")
    if not at or "/" in dtype or ":" in dtype:
        rest, dtype = text, "float32"
    if dtype not in DTYPES:
        raise UsageError("this is no dtype of weights", where=text, got=dtype, expected=", ".join(DTYPES))
    name, sign, directory = rest.partition("=")
    name = name if ":" in name or not sign else f"{name}:checkpoint"
    subject = subjects.resolve(name, checkpoint=Path(directory).expanduser() if sign else None)
    return subjects.load(subject, Runtime(dtype=dtype))  # type: ignore[arg-type]


def is_stored(text: str) -> bool:
    """Whether a side is named as features that are in the store: `store:KEY`, KEY a key's first digits."""
    return text.startswith("store:")


def places_of(adapter: Adapter, samples: Sequence[Sample]) -> list[Place]:
    """The residual stream after every block with what comes before and after it, over all tokens and over each span.

    Of a sampler's steps the first and the last are taken.
    """
    tokens = adapter.encode(samples[:1]).tokens
    steps = {point.step for point in adapter.clauses if point.step is not None}
    ends = {None, *([min(steps), max(steps)] if steps else [])}
    points = [point for point in adapter.clauses if point.stream in STREAMS and point.step in ends]
    spans = {stack: [name for name, span in own.spans.items() if name != "padding" and bool(span.any())] for stack, own in tokens.items()}
    poolings = {stack: ["mean", *(f"mean:{name}" for name in names if len(names) > 1)] for stack, names in spans.items()}
    return [Place(point, pooling) for point in points for pooling in poolings.get(point.stack, ["mean"])]


def take(name: str, adapter: Adapter, stream: Stream, places: Iterable[Place], store: Store, *, batch_size: int = 16) -> Side:
    """Extracts what the store lacks, one pass for each pooling. Raises what extraction raises."""
    keys: dict[Place, Key] = {}
    for pooling in dict.fromkeys(place.pooling for place in places):
        own = [place for place in places if place.pooling == pooling]
        sink = feature_sink(adapter, stream, [place.point for place in own], root=str(store.root), pooling=pooling)
        run(Job(adapter.subject, adapter.runtime, stream, sink, batch_size), partial(local, adapter=adapter))
        keys |= {place: sink.keys[place.point] for place in own}
    return Side(name, {place: keys[place] for place in places}, store, adapter)


def from_store(text: str, store: Store) -> Side:
    """The entry that `store:KEY` names, and all that were taken with it: of other points and poolings. Raises UnknownNameError."""
    parts = store.find(text.removeprefix("store:"))["parts"]
    shared = {name: value for name, value in parts.items() if name not in ("point", "pooling")}
    found = [Key(**entry["parts"]) for entry in store.entries() if shared.items() <= entry["parts"].items()]
    keys = {Place(Point.parse(key.point), key.pooling): key for key in found}
    return Side(text, dict(sorted(keys.items(), key=lambda found: _depth(found[0]))), store)


def _depth(place: Place) -> tuple[int, str, int, int, str]:
    """Encoders first, then what reads them; in a stack the embedding first and the final norm last."""
    rank = READERS.index(place.point.stack) if place.point.stack in READERS else -1
    before = {"embedding": -1, "final_norm": 1_000_000}.get(place.point.stream, 0)
    return rank, place.point.stack, place.point.step or 0, before if place.point.layer is None else place.point.layer, place.pooling


def readable(stream: Stream) -> dict[str, Sample]:
    """The samples of a stream by id. Raises UsageError when a record is broken."""
    samples: dict[str, Sample] = {}
    for record in stream:
        if isinstance(record, Broken):
            next = "harness dataset stats tells all of them"
            raise UsageError("a record of the dataset is broken", where=stream.name, got=f"{record.id}: {record.reason}", next=next)
        samples[record.id] = record
    return samples
