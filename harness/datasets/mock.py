"""Made-up episodes for trying out a command line: noise pictures, plausible instructions, seven-dimensional actions, all from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np

from harness.datasets._base import Reader
from harness.types import Broken, Sample

__all__ = ["Mock"]

VERBS, THINGS, PLACES = ("pick up", "push", "lift"), ("the red block", "the mug", "the green bowl"), ("from the table", "next to the plate")


@final
class Mock(Reader):
    """`episodes` of `steps` samples, each with both cameras (64, 64, 3), an instruction, state (8,) and action (7,). `path` is ignored."""

    def __init__(self, path: object = None, *, episodes: int = 4, steps: int = 6, seed: int = 0) -> None:
        self.episodes, self.steps, self.seed = episodes, steps, seed

    def __len__(self) -> int:
        return self.episodes

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        for episode in range(start, min(stop, self.episodes)):
            rng = np.random.default_rng([self.seed, episode])
            task = " ".join(words[rng.integers(len(words))] for words in (VERBS, THINGS, PLACES))
            for step in range(self.steps):
                pictures = {camera: rng.integers(0, 256, (64, 64, 3), np.uint8) for camera in ("primary", "wrist")}
                state, action = (rng.uniform(-1, 1, width).astype(np.float32) for width in (8, 7))
                name, fields = f"mock_{episode:04d}", {"action": action.tolist()}
                yield Sample(f"{name}/{step:04d}", task, pictures, state, action, task, name, step, fields)

    def identity(self) -> object:
        return [self.episodes, self.steps, self.seed]

    def keys(self) -> dict[str, str]:
        pictures = {f"observation.{name}": "uint8 (64, 64, 3)" for name in ("image", "wrist_image")}
        return {**pictures, "observation.state": "float32 (8,)", "action": "float32 (7,)", "episode_metadata.natural_language_instruction": "text"}
