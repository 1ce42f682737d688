"""The inputs of a π0 that are no pictures and no words: state, noise, times, and whether all of them fit the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.adapters._lerobot_config import STATE, PI0Config
from harness.errors import UnknownNameError, UsageError
from harness.types import Sample

__all__ = ["clock", "fit", "noise_of", "own_cameras", "padded_state"]

PICTURES = "observation.images."
TOKENS, TOKEN_MASK = "observation.language.tokens", "observation.language.attention_mask"


def clock(steps: int, *, old: bool) -> Float[Tensor, " steps"]:
    """The time of every denoise step, from 1 (noise) towards 0 (data), in float32; the old layout adds up its rounding."""
    if not old:
        return torch.tensor([1.0 + step * (-1.0 / steps) for step in range(steps)], dtype=torch.float32)
    times, dt = [torch.tensor(1.0)], torch.tensor(-1.0 / steps)
    while len(times) < steps:
        times.append(times[-1] + dt)
    return torch.stack(times)


def noise_of(seed: int, rows: int, config: PI0Config) -> Float[Tensor, "n h a"]:
    """Standard normal noise, the same for every sample, so that a sample's features do not depend on its batch mates."""
    one = np.random.default_rng(seed).standard_normal((config.horizon, config.max_action), dtype=np.float32)
    return torch.from_numpy(one).expand(rows, -1, -1)


def padded_state(
    state: Float[Tensor, "n w"], config: PI0Config, normalise: Callable[[Tensor], Tensor] | None, where: object
) -> Float[Tensor, "n m"]:
    """The state, normalised, with zeros up to the model's width. Raises UsageError for another width than the dataset's."""
    width, expected = state.shape[-1], config.state_width
    if state.ndim != 2 or width != (expected or width) or not 0 < width <= config.max_state:
        raise UsageError("the robot state has another width than this model's dataset", where=where, got=width, expected=expected or f"1 to {config.max_state}")
    state = state.float() if normalise is None else normalise(state.float())
    return torch.nn.functional.pad(state, (0, config.max_state - width))


def own_cameras(sample: Sample, config: PI0Config) -> list[np.ndarray]:
    """A sample's pictures in the model's order if all its cameras have the checkpoint's names (`image_0` for `observation.images.image_0`)."""
    names = {short: name for name in config.image_keys for short in (name, name.removeprefix(PICTURES))}
    if not sample.images or not {*sample.images} <= {*names}:
        return []
    by_key = {names[name]: picture for name, picture in sample.images.items()}
    return [by_key[name] for name in config.image_keys if name in by_key]


def fit(inputs: Mapping[str, Tensor], config: PI0Config, *, where: object) -> dict[str, Tensor]:
    """`inputs` with every tensor that a forward needs, of shapes that belong together. Raises UsageError, UnknownNameError."""
    inputs = {name: torch.as_tensor(value) for name, value in inputs.items()}
    if lacking := [name for name in (TOKENS, TOKEN_MASK, STATE) if name not in inputs]:
        raise UsageError("model inputs are missing", where=where, got=", ".join(inputs), expected=", ".join(lacking))
    for name in (name for name in inputs if name.startswith(PICTURES) and name not in config.image_keys):
        raise UnknownNameError("camera", name, config.image_keys, where=where)
    if not (shown := [name for name in config.image_keys if name in inputs]):
        raise UsageError("there is no picture", where=where, got=", ".join(inputs), expected=f"at least one of {', '.join(config.image_keys)}")
    tokens = inputs[TOKENS]
    rows = len(tokens)
    lengths = {name: len(inputs[name]) for name in (*shown, TOKEN_MASK, STATE)}
    if tokens.ndim != 2 or inputs[TOKEN_MASK].shape != tokens.shape or {*lengths.values()} != {rows}:
        got, expected = {TOKENS: tuple(tokens.shape), **lengths}, "one row for every sample, a mask like the tokens"
        raise UsageError("model inputs do not belong together", where=where, got=got, expected=expected)
    if "noise" in inputs and inputs["noise"].shape != (rows, config.horizon, config.max_action):
        raise UsageError("the noise does not fit", where=where, got=tuple(inputs["noise"].shape), expected=(rows, config.horizon, config.max_action))
    if int(inputs.get("num_steps", torch.tensor(1))) < 1:
        raise UsageError("there is no denoise step", where=where, got=int(inputs["num_steps"]), expected="num_steps of at least 1")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < config.sizes.vocabulary:
        got = (int(tokens.min()), int(tokens.max()))
        raise UsageError("there are no words with these ids", where=where, got=got, expected=f"0 to {config.sizes.vocabulary - 1}")
    return inputs
