"""The contract of π0: its extraction points in the order they are computed, and what the positions of each stack mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.adapters._openpi_sampler import clock
from harness.adapters._openpi_settings import Settings
from harness.adapters._openpi_sizes import GEMMA, Sizes
from harness.types import Clause, Point, TokenMap

__all__ = ["clauses", "token_maps"]

EYES = "PaliGemma/img"


def clauses(sizes: Sizes, settings: Settings) -> dict[Point, Clause]:
    """Every point with its place in upstream's tree. Scales are 1/rms of the residual that a norm is given, width 1."""
    width, cameras = sizes.vision_width, len(settings.image_keys)
    found = {Point("vision", "embedding"): Clause(f"{EYES}/embedding", "output", width, "raw", fold=cameras)}
    for layer in range(sizes.vision_depth):
        module = f"{EYES}/Transformer/encoderblock[{layer}]"
        found[Point("vision", "input", layer)] = Clause(module, "input", width, "raw", fold=cameras)
        found[Point("vision", "output", layer)] = Clause(module, "output", width, "raw", fold=cameras)
    found[Point("vision", "final_norm")] = Clause(f"{EYES}/Transformer/encoder_norm", "output", width, "final", fold=cameras)
    found[Point("projector", "output")] = Clause(f"{EYES}/head", "output", sizes.width, "raw", fold=cameras)
    found |= _expert("lm", sizes.depth, sizes.width, "prefill", "", None)
    for step, time in enumerate(clock(settings.steps)):
        found |= _expert("expert", sizes.depth, sizes.expert_width, f"denoise step {step}, t={time:.2f}", "_1", step)
    return found


def _expert(stack: str, depth: int, width: int, phase: str, suffix: str, step: int | None) -> dict[Point, Clause]:
    blocks = f"{GEMMA}/layers"

    def clause(module: str, side: str, norm: str = "raw", width: int = width) -> Clause:
        return Clause(module, side, width, norm, phase=phase, call=step)  # type: ignore[arg-type]

    found = {Point(stack, "embedding", step=step): clause(f"{blocks}[0]", "input")}
    for layer in range(depth):
        before, after = f"{blocks}[{layer}]/pre_attention_norm{suffix}", f"{blocks}[{layer}]/pre_ffw_norm{suffix}"
        found |= {
            Point(stack, "pre_attn_scale", layer, step): clause(before, "output", width=1),
            Point(stack, "input", layer, step): clause(before, "input"),
            Point(stack, "pre_mlp_scale", layer, step): clause(after, "output", width=1),
            Point(stack, "post_attn", layer, step): clause(after, "input"),
            Point(stack, "output", layer, step): clause(f"{blocks}[{layer}]", "output"),
        }
    return found | {Point(stack, "final_norm", step=step): clause(f"{GEMMA}/final_norm{suffix}", "output", "final")}


def token_maps(sizes: Sizes, image_mask: np.ndarray, prompt_mask: np.ndarray, horizon: int) -> Mapping[str, TokenMap]:
    """Maps of `vision`, `projector`, `lm` and `expert`; tokens of a camera that is absent (mask (n, c) False) are padding."""
    rows, cameras = image_mask.shape
    present = np.repeat(image_mask, sizes.patches, axis=1)
    owner = np.repeat(np.arange(cameras), sizes.patches)
    pictures = {f"image.{index}": present & (owner == index) for index in range(cameras)}
    tower = TokenMap(present, {**pictures, "padding": ~present})
    words = np.zeros_like(prompt_mask)
    valid = np.concatenate([present, prompt_mask], axis=1)
    spans = {name: np.concatenate([span, words], axis=1) for name, span in pictures.items()}
    text = np.concatenate([np.zeros_like(present), prompt_mask], axis=1)
    lengths = {**({} if sizes.pi05 else {"state": 1}), "action": horizon}
    kinds = np.repeat(list(lengths), list(lengths.values()))
    every = np.ones((rows, len(kinds)), bool)
    expert = TokenMap(every, {**{name: every & (kinds == name) for name in lengths}, "padding": ~every})
    return {"vision": tower, "projector": tower, "lm": TokenMap(valid, {**spans, "text": text, "padding": ~valid}), "expert": expert}
