"""What transformers' π0 is given: pictures, prompt, normalised state, noise, and whether all of them fit the model.

Source: transformers 5.23.0 `processing_pi0.py`, `image_processing_pi0.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PI0Config

from harness.adapters._lerobot_image import from_uint8, prepare
from harness.adapters._weights import read_json
from harness.errors import DamagedError, UsageError

__all__ = ["PREPROCESSING", "Processor", "fitted"]

EPSILON = 1e-8  # added to the deviations (processing_pi0.py, `normalize`)
PROMPT = 48  # tokens: the default of `PI0Processor.text_kwargs`


def centred(picture: np.ndarray, side: int) -> Tensor:
    """As π0 was trained (openpi, lerobot): bilinear, in the middle of black, -1."""
    return prepare(from_uint8(torch.from_numpy(np.array(picture))), side=side, old=False)[0]


def cornered(picture: np.ndarray, side: int) -> Tensor:
    """As the processor of transformers 5.23.0: bicubic, in the upper left corner, the rest 0, which is grey."""
    height, width = picture.shape[:2]
    ratio = min(side / height, side / width)
    size = (max(1, int(width * ratio)), max(1, int(height * ratio)))
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), np.float32) / 255 * 2 - 1
    placed = np.zeros((side, side, 3), np.float32)
    placed[: size[1], : size[0]] = resized
    return torch.from_numpy(placed.transpose(2, 0, 1).copy())


PREPROCESSING: Mapping[str, Callable[[np.ndarray, int], Tensor]] = {"pi0": centred, "transformers": cornered}


@dataclass(frozen=True)
class Processor:
    """The checkpoint's `processor_config.json`, as far as it changes what the model is given; empty for random weights."""

    state: tuple[np.ndarray, np.ndarray] | None = None
    actions: tuple[np.ndarray, np.ndarray] | None = None
    prompt: int = PROMPT

    @classmethod
    def read(cls, directory: Path | None) -> Processor:
        """Raises DamagedError for statistics that are not numbers, not pairs, or deviate by nothing."""
        path = None if directory is None else directory / "processor_config.json"
        saved = read_json(path) if path is not None and path.is_file() else {}
        length = (saved.get("text_kwargs") or {}).get("max_length", PROMPT)
        return cls(_statistics(saved, "state", path), _statistics(saved, "actions", path), length if isinstance(length, int) else PROMPT)

    def normalised(self, state: np.ndarray) -> np.ndarray:
        """Zero mean and unit deviation over the dataset; as it is where there are no statistics."""
        return state if self.state is None else (state - self.state[0]) / (self.state[1] + EPSILON)

    def unnormalised(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., a) in the dataset's units, cut to its width; there must be statistics."""
        mean, deviation = self.actions
        return actions[..., : len(mean)].astype(np.float64) * (deviation + EPSILON) + mean


def fitted(inputs: Mapping[str, Any], config: PI0Config, *, where: object) -> dict[str, Tensor]:
    """`inputs` with the masks that upstream's own processor adds, of shapes that belong together. Raises UsageError."""
    given = {name: torch.as_tensor(np.asarray(value)) for name, value in inputs.items()}
    if lacking := [name for name in ("input_ids", "pixel_values", "state") if name not in given]:
        raise UsageError("model inputs are missing", where=where, got=", ".join(inputs), expected=", ".join(lacking))
    vision, pixels = config.vlm_config.vision_config, given["pixel_values"]
    rows, length = given["input_ids"].shape if given["input_ids"].ndim == 2 else (len(pixels), 0)
    cameras = pixels.shape[1] if pixels.ndim == 5 else 1
    given = {"attention_mask": torch.ones(rows, length), "pixel_attention_mask": torch.ones(rows, cameras), **given}
    given |= {name: given[name].long() for name in ("input_ids", "attention_mask")} | {"pixel_attention_mask": given["pixel_attention_mask"].bool()}
    wanted = {
        "input_ids": (rows, length),
        "attention_mask": (rows, length),
        "pixel_values": (rows, cameras, 3, vision.image_size, vision.image_size),
        "pixel_attention_mask": (rows, cameras),
        "state": (rows, config.max_state_dim),
    }
    wanted |= {"noise": (rows, config.chunk_size, config.max_action_dim)} if "noise" in given else {}
    if (got := {name: tuple(given[name].shape) for name in wanted}) != wanted:
        raise UsageError("model inputs do not fit", where=where, got=got, expected=wanted)
    ids, token = given["input_ids"], config.vlm_config.image_token_index
    images, tokens = (ids == token).sum(1), given["pixel_attention_mask"].sum(1) * (vision.image_size // vision.patch_size) ** 2
    if not torch.equal(images, tokens):
        what = "a prompt has another number of image tokens than its pictures have patches"
        raise UsageError(what, where=where, got=images.tolist(), expected=tokens.tolist())
    if bool(((ids < 0) | (ids >= config.vlm_config.text_config.vocab_size))[ids != token].any()):
        got, expected = (int(ids.min()), int(ids.max())), f"0 to {config.vlm_config.text_config.vocab_size - 1}, or {token}"
        raise UsageError("there are no words with these ids", where=where, got=got, expected=expected)
    if int(given.get("num_steps", torch.tensor(1))) < 1:
        raise UsageError("there is no denoise step", where=where, got=int(given["num_steps"]), expected="num_steps of at least 1")
    return given


def _statistics(saved: Mapping[str, Any], kind: str, path: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
    found = [saved.get(f"{kind}_{name}") for name in ("mean", "std")]
    if found == [None, None]:
        return None
    try:
        mean, deviation = (np.asarray(values, np.float64) for values in found)
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{kind} statistics are no numbers", where=path, got=error) from error
    if mean.ndim != 1 or mean.shape != deviation.shape or not np.isfinite([mean, deviation]).all() or (deviation < 0).any():
        got = f"mean {mean.shape}, std {deviation.shape}"
        raise DamagedError(f"{kind} statistics are not usable", where=path, got=got, expected="two lists of finite numbers, as long as each other")
    return mean, deviation
