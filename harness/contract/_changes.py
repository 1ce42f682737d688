"""Replacements of one input of every sample, by name: what contract measurements perturb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.types import Sample

__all__ = ["CHANGES"]


def _images(paint: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Callable[[Sequence[Sample], np.random.Generator], list[Sample]]:
    return lambda samples, rng: [
        replace(sample, images={camera: paint(image, rng) for camera, image in sample.images.items()}) for sample in samples
    ]


def _rotated(field: str) -> Callable[[Sequence[Sample], np.random.Generator], list[Sample]]:
    return lambda samples, rng: [replace(sample, **{field: getattr(samples[index - 1], field)}) for index, sample in enumerate(samples)]


CHANGES: Mapping[str, Callable[[Sequence[Sample], np.random.Generator], list[Sample]]] = {
    "black image": _images(lambda image, rng: np.zeros_like(image)),
    "white image": _images(lambda image, rng: np.full_like(image, 255)),
    "noise image": _images(lambda image, rng: rng.integers(0, 256, image.shape, np.uint8)),
    "other image": _rotated("images"),
    "other instruction": _rotated("instruction"),
    "other state": lambda samples, rng: [replace(sample, state=rng.normal(size=8).astype(np.float32)) for sample in samples],
}
