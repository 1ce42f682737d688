"""Why a plan is as it is, in sentences with its own numbers."""

from __future__ import annotations

from collections.abc import Sequence

from harness.sampling._size import Precision
from harness.sampling._survey import Survey

__all__ = ["justification", "why"]


def why(chosen: int, available: int, limit: int, equal: float, most: int) -> str:
    """Why a stratum gives as many as it does; `equal` is its share if none ended early, `most` what the largest gives."""
    if chosen == limit < available:
        return f"all that the limit per episode leaves of {available}; an equal share would be {equal:.1f}"
    if chosen == limit:
        return f"all there are; an equal share would be {equal:.1f}"
    if chosen == 0:
        return f"none: there are more strata than samples to choose, an equal share is {equal:.1f}, and the seed drew others"
    odd = ", less the odd one that the seed gave to others" if chosen < most else ""
    return f"an equal share of what strata that end early leave{odd}" if most > equal + 1 else f"an equal share ({equal:.1f}){odd}"


def justification(
    by: Sequence[str],
    seed: int,
    strata: Sequence[tuple[int, int]],
    taken: Sequence[int],
    survey: Survey,
    worth: Precision,
    asked: str,
) -> tuple[str, ...]:
    """Sentences on the choice, on what it is worth and on what it does not show; `strata` are (available, chosen), `taken` the
    samples of each episode that gives any. The price of weights is n times the sum of their squares by the square of their sum (Kish 1965).
    """
    chosen, total = sum(taken), sum(available for available, _ in strata)
    found = [
        f"{chosen} of {total} samples are chosen ({asked}), from {len(taken)} of {len(survey.shards)} episodes."
        f" Broken records, which could not be chosen: {survey.broken}.",
        *([_balance(by, [count for _, count in strata])] if by else []),
        f"Episodes come before steps: within a stratum each episode gives as many samples as the others as far as it lasts"
        f" ({min(taken)} to {max(taken)} where any), at even distances. What cannot be divided is drawn with seed {seed}.",
        *_worth(chosen, worth, len(survey.shards)),
    ]
    weights = [(available / count, count) for available, count in strata if count]
    loss = chosen * sum(count * weight**2 for weight, count in weights) / sum(count * weight for weight, count in weights) ** 2
    if loss > 1.005:  # what two digits show
        found.append(
            "Strata are sampled at different rates: an unweighted statistic describes the balanced mix, not the dataset. Weighted by `weight` it"
            f" describes the dataset, at the price of {loss:.2f} times the variance."
        )
    return tuple(found)


def _balance(by: Sequence[str], counts: Sequence[int]) -> str:
    return (
        f"They are balanced over {len(counts)} strata of {' x '.join(by)}: each gives as many as the others as far as it lasts"
        f" ({min(counts)} to {max(counts)})."
    )


def _worth(chosen: int, worth: Precision, episodes: int) -> list[str]:
    if worth.per_episode == 1:
        clustering = f"No two come from one episode: {chosen} samples count as {chosen} independent ones."
    else:
        known = f"rho = {worth.rho:.3f} by the action's most clustered component, a stand-in for the features'" if worth.rho is not None else ""
        unknown = "how much is unknown, since no action varies within episodes, and the worst, rho = 1, is assumed"
        clustering = (
            f"Samples of one episode are alike: {known or unknown}. {chosen} samples count as {worth.n_effective:.0f} independent ones"
            f" (design effect 1 + ({worth.per_episode:.2f} - 1) x rho = {worth.design_effect:.2f})."
        )
    verdict = "enough" if worth.half_width <= worth.wanted else "not enough"
    reach = "" if worth.required_episodes <= episodes else f", more than the {episodes} there are: a narrower interval needs new episodes"
    return [
        clustering,
        f"The {worth.confidence:.0%} interval of the mean of a statistic between 0 and 1 is then ± {worth.half_width:.3f} at most."
        f" For ± {worth.wanted:g} this is {verdict}: it takes {worth.required} samples of {worth.required_episodes} episodes{reach}.",
    ]
