"""Every extraction point of transformers' π0 with its module, and the meaning of every position."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PI0Config

from harness.adapters._denoise_points import Stack, denoise_clauses, expert_map, token_map
from harness.types import Clause, Point, TokenMap

__all__ = ["pi0_clauses", "token_maps"]


def pi0_clauses(config: PI0Config, *, cameras: int, steps: int) -> dict[Point, Clause]:
    """The contract of a model that sees so many cameras and takes so many denoise steps."""
    vision, text, expert = config.vlm_config.vision_config, config.vlm_config.text_config, config.dit_config
    return denoise_clauses(
        Stack("model.vlm.vision_tower", vision.hidden_size, vision.num_hidden_layers),
        "model.vlm.multi_modal_projector",
        Stack("model.vlm.language_model", text.hidden_size, text.num_hidden_layers),
        Stack("model.dit", expert.hidden_size, expert.num_hidden_layers),
        cameras=cameras,
        steps=steps,
        scales=False,
    )


def token_maps(image: Tensor, valid: Tensor, shown: Tensor, *, patches: int, horizon: int) -> dict[str, TokenMap]:
    """The positions of every stack, from the image tokens and the valid ones (n, t) of the sequence and the shown cameras (n, c).

    A camera that is not shown runs through the tower (its positions are padding there) and has no token in the sequence.
    """
    rows, cameras = shown.shape
    seen = shown.repeat_interleave(patches, dim=1)
    owner = torch.arange(cameras).repeat_interleave(patches).expand(rows, -1)
    tower = token_map(seen, {f"image.{index}": seen & (owner == index) for index in range(cameras)})
    rank = (image.long().cumsum(1) - 1) // patches
    slot = shown.long().cumsum(1) - 1  # which of the shown pictures a camera's is
    spans = {f"image.{index}": image & valid & shown[:, index, None] & (rank == slot[:, index, None]) for index in range(cameras)}
    return {"vision": tower, "projector": tower, "lm": token_map(valid, {**spans, "text": valid & ~image}), "expert": expert_map(rows, horizon)}
