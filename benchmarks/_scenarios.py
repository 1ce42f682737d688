"""Data in which metrics have nothing to find, and data with one effect of a known size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

__all__ = ["NULLS", "SCENARIOS", "SIZES", "N", "Pair", "Scenario", "noise", "widths"]

N, WIDTH, WIDE, FEW, FRAMES = 100, 16, 64, 6, 4
SIZES: Mapping[str, tuple[int, ...]] = {"paired": (28, 48, N, 200), "two_sample": (28, 48, N, 200, 400)}


class Pair(NamedTuple):
    """Two feature sets, and what `score` is told of their rows."""

    x: np.ndarray
    y: np.ndarray
    told: Mapping[str, Any] = {}


Draw = Callable[[np.random.Generator, int, float], Pair]


class Scenario(NamedTuple):
    """Data of n rows a side with an effect of some size; `sizes` of it are tried at n = 100, `at` is the one for all n."""

    kind: str
    effect: str
    draw: Draw
    sizes: tuple[float, ...]
    at: float


def noise(rng: np.random.Generator, n: int, width: int = WIDTH) -> np.ndarray:
    return rng.standard_normal((n, width))


def mean(rng: np.random.Generator, n: int, shift: float) -> Pair:
    return Pair(noise(rng, n), noise(rng, n) + shift)


def scale(rng: np.random.Generator, n: int, growth: float) -> Pair:
    return Pair(noise(rng, n), noise(rng, n) * (1 + growth))


def correlation(rng: np.random.Generator, n: int, rho: float) -> Pair:
    """Neighbouring features correlate by `rho` in x and by its opposite in y; each feature by itself stays as it was."""
    x, y = noise(rng, n), noise(rng, n)
    for rows, sign in ((x, 1), (y, -1)):
        rows[:, 1::2] = sign * rho * rows[:, ::2] + np.sqrt(1 - rho**2) * rows[:, 1::2]
    return Pair(x, y)


def few(rng: np.random.Generator, n: int, shift: float) -> Pair:
    return Pair(noise(rng, n, WIDE), noise(rng, n, WIDE) + shift * (np.arange(WIDE) < 2))


def tails(rng: np.random.Generator, n: int, inverse: float) -> Pair:
    """y is Student's t of 1 / `inverse` degrees of freedom, scaled to variance 1."""
    return Pair(noise(rng, n), rng.standard_t(1 / inverse, (n, WIDTH)) * np.sqrt(1 - 2 * inverse))


def views(rng: np.random.Generator, left: np.ndarray, right: np.ndarray, share: float) -> Pair:
    """Random linear images of two signals of unit variance; `share` of every feature's variance is signal, the rest is noise."""
    sides = []
    for signal in (left, right):
        mix = rng.standard_normal((signal.shape[1], WIDTH))
        sides.append(np.sqrt(share) * signal @ (mix / np.linalg.norm(mix, axis=0)) + np.sqrt(1 - share) * noise(rng, len(signal)))
    return Pair(*sides)


def linear(rng: np.random.Generator, n: int, share: float, *, latents: int) -> Pair:
    signal = noise(rng, n, latents)
    return views(rng, signal, signal, share)


def curved(rng: np.random.Generator, n: int, share: float) -> Pair:
    """The second view holds squares of the first one's signal, which correlate with nothing linear in it."""
    signal = noise(rng, n, 2)
    return views(rng, signal, (signal**2 - 1) / np.sqrt(2), share)


def same_features(rng: np.random.Generator, n: int, share: float) -> Pair:
    x = noise(rng, n)
    return Pair(x, np.sqrt(share) * x + np.sqrt(1 - share) * noise(rng, n))


def episodes(rng: np.random.Generator, n: int, share: float) -> Pair:
    """Two directions shared by episodes of four frames, which differ by a tenth of the variance."""
    found = linear(rng, n // FRAMES, share, latents=2)
    frames = (np.sqrt(0.9) * side.repeat(FRAMES, 0) + np.sqrt(0.1) * noise(rng, n) for side in (found.x, found.y))
    return Pair(*frames, {"groups": np.arange(n) // FRAMES})


def twins(rng: np.random.Generator, n: int) -> Pair:
    """Two noisy views of the same rows."""
    sample = noise(rng, n, FEW)
    return Pair(*(sample + 0.5 * noise(rng, n, FEW) for _ in range(2)), {"pairs": True})


def twin_episodes(rng: np.random.Generator, n: int) -> Pair:
    """The same, where most of the noise is common to an episode's frames."""
    sample, group = noise(rng, n, FEW), np.arange(n) // FRAMES
    return Pair(*(sample + noise(rng, n // FRAMES, FEW)[group] + 0.5 * noise(rng, n, FEW) for _ in range(2)), {"pairs": True, "groups": group})


def widths(scenario: str) -> int:
    """Features of a two-sample scenario."""
    return WIDE if scenario == "few" else WIDTH


SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
SCENARIOS: Mapping[str, Scenario] = {
    "mean": Scenario("two_sample", "every feature shifted by (sd)", mean, (0.05, 0.1, 0.2, 0.3, 0.4), 0.2),
    "scale": Scenario("two_sample", "every feature's spread grown by", scale, (0.05, 0.1, 0.2, 0.3, 0.5), 0.2),
    "correlation": Scenario("two_sample", "correlation of pairs, sign turned", correlation, (0.1, 0.2, 0.3, 0.5, 0.8), 0.3),
    "few": Scenario("two_sample", "2 of 64 features shifted by (sd)", few, (0.25, 0.5, 0.75, 1, 1.5), 0.75),
    "tails": Scenario("two_sample", "1 / degrees of freedom (t)", tails, (0.1, 0.2, 0.3, 0.4, 0.45), 0.4),
    "two directions": Scenario("paired", "share of variance, 2 directions", partial(linear, latents=2), SHARES, 0.2),
    "eight directions": Scenario("paired", "share of variance, 8 directions", partial(linear, latents=8), SHARES, 0.3),
    "curved": Scenario("paired", "share of variance, y holds squares", curved, (0.2, 0.4, 0.6, 0.8, 0.95), 0.8),
    "same features": Scenario("paired", "share of variance, by feature", same_features, SHARES, 0.1),
    "episodes": Scenario("paired", "share of variance, of episodes", episodes, (0.1, 0.2, 0.3, 0.5, 0.7), 0.5),
}
NULLS: Mapping[str, Mapping[str, Callable[[np.random.Generator], Pair]]] = {
    "paired": {"rows": lambda rng: Pair(noise(rng, 40, FEW), rng.standard_exponential((40, FEW))), "episodes": lambda rng: episodes(rng, 48, 0.0)},
    "two_sample": {
        "rows": lambda rng: Pair(rng.standard_exponential((32, FEW)), rng.standard_exponential((40, FEW))),
        "twins": lambda rng: twins(rng, 40),
        "episodes": lambda rng: twin_episodes(rng, 48),
    },
}
