"""Which samples to take: strata of equal size as far as they last, in each many episodes before many steps of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.checkpoints import canonical_digest
from harness.errors import UnknownNameError, UsageError
from harness.readers import Stream
from harness.sampling._allocation import places, shares
from harness.sampling._episodes import labels
from harness.sampling._reasons import justification, why
from harness.sampling._size import Precision, precision
from harness.sampling._survey import Survey, stratum, surveyed
from harness.types import Progress, Sample

__all__ = ["Plan", "Stratum", "plan"]

Chosen = dict[tuple[tuple[str, ...], str], np.ndarray]  # by stratum and episode that give any: which of its samples, counted from 0


@dataclass(frozen=True)
class Stratum:
    """Samples that agree in the fields of `stratum`: how many there are, in how many episodes, how many are chosen, and why as many.

    `weight` is how many samples of the dataset each chosen one stands for, None when none is chosen.
    """

    stratum: Mapping[str, str]
    available: int
    episodes: int
    chosen: int
    chosen_episodes: int
    weight: float | None
    why: str


@dataclass(frozen=True)
class Plan:
    """Ids in the dataset's order, and how they came about. `n` were asked for; `broken` records could not be chosen."""

    source: str
    dataset_digest: str
    seed: int
    n: int
    by: tuple[str, ...]
    per_episode: int | None
    broken: int
    precision: Precision
    justification: tuple[str, ...]
    strata: tuple[Stratum, ...]
    ids: tuple[str, ...]


def plan(stream: Stream, n: int, by: Sequence[str], seed: int, *, per_episode: int | None = None, progress: Progress | None = None) -> Plan:
    """`n` samples, or all where there are fewer; the same stream and arguments give the same ids.

    `by` are names that `labels` gives; the strata are the combinations that occur. `per_episode` limits the samples of one episode in a stratum.
    Reads the data once, and the shards that hold something chosen twice. Raises UsageError, UnknownNameError for a name that no sample has.
    """
    if n < 1 or per_episode is not None and per_episode < 1 or len(set(by)) != len(by):
        got = f"n={n}, per_episode={per_episode}, by={','.join(by)}"
        raise UsageError("a plan cannot be made of this", got=got, expected="numbers from 1, and each field once")
    survey = surveyed(stream, by, progress)
    if unknown := sorted(set(by) - survey.fields):
        raise UnknownNameError("field to stratify by", unknown[0], survey.fields, where=stream.name)
    if not survey.strata:
        raise UsageError("there is nothing to choose from", where=stream.name, got=f"0 samples, {survey.broken} broken records")
    chosen = _chosen(survey, n, seed, per_episode)
    taken = list(_by_episode(chosen).values())
    worth = precision(taken, survey.rho)
    strata = _strata(survey, chosen, by, n, per_episode)
    asked = f"{n} asked for" if per_episode is None else f"{n} asked for, at most {per_episode} of an episode in a stratum"
    return Plan(
        source=stream.name,
        dataset_digest=stream.digest,
        seed=seed,
        n=n,
        by=tuple(by),
        per_episode=per_episode,
        broken=survey.broken,
        precision=worth,
        justification=justification(by, seed, [(part.available, part.chosen) for part in strata], taken, survey, worth, asked),
        strata=strata,
        ids=_ids(stream, survey, by, chosen),
    )


def _chosen(survey: Survey, n: int, seed: int, per_episode: int | None) -> Chosen:
    strata = sorted(survey.strata)
    limits = {key: [count if per_episode is None else min(count, per_episode) for count in survey.strata[key].values()] for key in strata}
    given = shares([sum(limits[key]) for key in strata], n, _random(seed, "strata"))
    found: Chosen = {}
    for key, share in zip(strata, given, strict=True):
        random = _random(seed, *key)  # its own, so that what happens in one stratum does not move the others
        counts = survey.strata[key]
        taken = shares(limits[key], int(share), random)
        steps = places(list(counts.values()), [int(k) for k in taken], random)
        found.update({(key, episode): own for episode, own in zip(counts, steps, strict=True) if len(own)})
    return found


def _random(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng(int(canonical_digest([seed, *names])[:16], 16))


def _by_episode(chosen: Chosen) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, episode), steps in chosen.items():
        found[episode] += len(steps)
    return found


def _strata(survey: Survey, chosen: Chosen, by: Sequence[str], n: int, per_episode: int | None) -> tuple[Stratum, ...]:
    taken = {key: [len(chosen.get((key, episode), ())) for episode in counts] for key, counts in survey.strata.items()}
    most = max(sum(steps) for steps in taken.values())
    found = []
    for key, counts in sorted(survey.strata.items()):
        available, own = sum(counts.values()), sum(taken[key])
        limit = available if per_episode is None else sum(min(count, per_episode) for count in counts.values())
        reason = why(own, available, limit, n / len(survey.strata), most)
        episodes = sum(step > 0 for step in taken[key])
        found.append(Stratum(dict(zip(by, key, strict=True)), available, len(counts), own, episodes, available / own if own else None, reason))
    return tuple(found)


def _ids(stream: Stream, survey: Survey, by: Sequence[str], chosen: Chosen) -> tuple[str, ...]:
    """The ids of what is chosen, in the dataset's order. Raises UsageError when the samples have changed since they were counted."""
    wanted = {episode for _, episode in chosen}
    numbers = sorted({number for episode in wanted for number in survey.shards[episode]})
    places_of = {key: frozenset(steps.tolist()) for key, steps in chosen.items()}
    seen: Counter[tuple[tuple[str, ...], str]] = Counter()
    ids = []
    for number in numbers:
        for record in stream.shard(number):
            if isinstance(record, Sample) and (episode := record.episode or record.id) in wanted:
                key = stratum(labels(record), by), episode
                if seen[key] in places_of.get(key, ()):
                    ids.append(record.id)
                seen[key] += 1
    expected = sum(map(len, places_of.values()))
    if len(set(ids)) != expected:
        got = f"{len(ids)} samples with {len(set(ids))} ids"
        next = f"harness dataset stats {stream.name}"
        raise UsageError("the chosen samples cannot be told apart", where=stream.name, got=got, expected=f"{expected} ids", next=next)
    return tuple(ids)
