"""Every extraction point of lerobot's π0 with its module, and the meaning of every position."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.adapters._denoise_points import Stack, denoise_clauses, expert_map, token_map
from harness.adapters._lerobot_config import PI0Config
from harness.types import Clause, Point, TokenMap

__all__ = ["pi0_clauses", "token_maps"]


def pi0_clauses(config: PI0Config, *, cameras: int, steps: int) -> dict[Point, Clause]:
    """The contract of a model that sees so many cameras and takes so many denoise steps."""
    sizes = config.sizes
    return denoise_clauses(
        Stack("vision_tower", sizes.vision.width, sizes.vision.depth),
        "projector",
        Stack("language_model", sizes.vlm.width, sizes.vlm.depth),
        Stack("expert", sizes.expert.width, sizes.expert.depth),
        cameras=cameras,
        steps=steps,
        scales=True,
    )


def token_maps(image_mask: Tensor, token_mask: Tensor, *, patches: int, horizon: int) -> dict[str, TokenMap]:
    """The positions of every stack: pictures camera by camera, words, state and actions; a masked camera is padding."""
    rows, cameras = image_mask.shape
    seen = image_mask.repeat_interleave(patches, dim=1)
    camera = torch.arange(cameras).repeat_interleave(patches).expand(rows, -1)
    pictures = {f"image.{index}": seen & (camera == index) for index in range(cameras) if bool(image_mask[:, index].any())}
    pad = torch.zeros_like(token_mask)
    words = {name: torch.cat([span, pad], dim=1) for name, span in pictures.items()}
    words["text"] = torch.cat([torch.zeros_like(seen), token_mask], dim=1)
    return {
        "vision": token_map(seen, pictures),
        "projector": token_map(seen, pictures),
        "lm": token_map(torch.cat([seen, token_mask], dim=1), words),
        "expert": expert_map(rows, horizon),
    }
