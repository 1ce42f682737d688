"""How many samples a mean needs when samples of one episode are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from harness.errors import UsageError

__all__ = ["Precision", "design_effect", "precision", "required_n"]


@dataclass(frozen=True)
class Precision:
    """What a number of chosen samples is worth for the mean of a statistic between 0 and 1, by the worst of its variances.

    It is about the population that the episodes came from: that the dataset is finite, and stratified, makes its own mean better known than this.
    `rho` is None where no action tells it; the others are then those of rho 1, the worst case. `per_episode` weighs episodes by their samples.
    `required` samples at this `per_episode` give a half-width of `wanted`.
    """

    rho: float | None
    per_episode: float
    design_effect: float
    n_effective: float
    confidence: float
    half_width: float
    wanted: float
    required: int

    @property
    def required_episodes(self) -> int:
        return math.ceil(self.required / self.per_episode)


def design_effect(chosen: Sequence[int], rho: float) -> float:
    """By how much clustering multiplies the variance of a mean, 1 or more: 1 + (m - 1) rho (Kish 1965, Survey Sampling).

    `chosen` counts the samples of each episode; m is their sum of squares by their sum, as Kish has it for episodes of unequal size.
    """
    if not 0 <= rho <= 1 or not chosen or min(chosen) < 1:
        got = f"rho={rho}, samples by episode {list(chosen)[:5]}"
        raise UsageError("there is no design effect of this", got=got, expected="rho from 0 to 1, at least 1 sample of each")
    return 1 + (sum(count**2 for count in chosen) / sum(chosen) - 1) * rho


def required_n(half_width: float, *, rho: float = 0.0, per_episode: float = 1.0, span: float = 1.0, confidence: float = 0.95) -> int:
    """Samples after which the interval of the mean of a statistic is at most ± `half_width` wide, in the statistic's unit.

    The statistic lies within a range of width `span`, so its variance is at most span² / 4 (Popoviciu 1935). With z the normal quantile,
    n = (z span / 2 / half_width)² (Cochran 1977, Sampling Techniques, chapter 4), times the design effect of `per_episode` samples of each
    episode. Raises UsageError.
    """
    if half_width <= 0 or span <= 0 or not 0 < confidence < 1 or not 0 <= rho <= 1 or per_episode < 1:
        got = f"half_width={half_width}, span={span}, confidence={confidence}, rho={rho}, per_episode={per_episode}"
        expected = "widths above 0, confidence between 0 and 1, rho from 0 to 1, per_episode from 1"
        raise UsageError("no number of samples follows from this", got=got, expected=expected)
    independent = (_z(confidence) * span / 2 / half_width) ** 2
    return math.ceil(independent * (1 + (per_episode - 1) * rho))


def precision(chosen: Sequence[int], rho: float | None, *, wanted: float = 0.05, confidence: float = 0.95) -> Precision:
    """What samples, `chosen` by episode, are worth. Raises UsageError."""
    assumed = 1.0 if rho is None else rho
    effect, per_episode = design_effect(chosen, assumed), sum(count**2 for count in chosen) / sum(chosen)
    effective = sum(chosen) / effect
    required = required_n(wanted, rho=assumed, per_episode=per_episode, confidence=confidence)
    return Precision(rho, per_episode, effect, effective, confidence, _z(confidence) / 2 / math.sqrt(effective), wanted, required)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
