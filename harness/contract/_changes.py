"""Replacements of one input of every sample, by name: what contract measurements perturb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.types import Sample

__all__ = ["CHANGES", "FIELDS", "noise_from"]


Change = Callable[[Sequence[Sample], np.random.Generator], list[Sample]]


def noise_from(camera: str) -> Change:
    """Noise instead of one camera's picture; the other cameras keep theirs."""
    return lambda samples, rng: [
        replace(sample, images={name: _noise(image, rng) if name == camera else image for name, image in sample.images.items()}) for sample in samples
    ]


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, image.shape, np.uint8)


def _images(paint: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    return lambda samples, rng: [
        replace(sample, images={camera: paint(image, rng) for camera, image in sample.images.items()}) for sample in samples
    ]


def _rotated(field: str) -> Change:
    return lambda samples, rng: [replace(sample, **{field: getattr(samples[index - 1], field)}) for index, sample in enumerate(samples)]


def _cameras(order: Callable[[list[str]], list[str]], pictures: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Change:
    def changed(sample: Sample) -> Sample:
        named = dict(zip(sample.images, pictures(list(sample.images.values())), strict=True))
        return replace(sample, images={name: named[name] for name in order(list(named))})

    return lambda samples, rng: [changed(sample) for sample in samples]


def _reversed(items: list) -> list:
    return items[::-1]


CHANGES: Mapping[str, Change] = {
    "black image": _images(lambda image, rng: np.zeros_like(image)),
    "white image": _images(lambda image, rng: np.full_like(image, 255)),
    "noise image": _images(_noise),
    "other image": _rotated("images"),
    "cameras listed backwards": _cameras(_reversed, list),
    "cameras swapped": _cameras(list, _reversed),
    "other instruction": _rotated("instruction"),
    "other state": _rotated("state"),
}
FIELDS = {"images": "noise image", "instruction": "other instruction", "state": "other state"}  # a change for each sample field
