"""Where every token of a RoboVLMs sequence stands: [bos] [hand picture] [static picture] text [action tokens] [last token].

Source: RoboVLMs 8adc1d28, `base_backbone.py:972-1137`. Both pictures are inserted at index 1, the hand camera's second and so
first in the sequence; no token marks their borders.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from harness.errors import UsageError
from harness.types import TokenMap

__all__ = ["Layout", "layout"]


class Layout(NamedTuple):
    """How the sequence is gathered from its parts in the order text, static picture, hand picture, action tokens."""

    order: Int[Tensor, "b s"]  # which of the parts' tokens stands at each position
    action_at: Int[Tensor, "b n"]  # the positions of the action tokens
    tokens: TokenMap


def layout(mask: Bool[Tensor, "b t"], last: Int[Tensor, "b"], *, latents: int, cameras: int, actions: int) -> Layout:
    """The sequence of prompts with `mask`, `latents` tokens for each of 1 or 2 cameras, and the action tokens before `last`.

    `last` is the index of the prompt token that the action tokens stand before. Raises UsageError unless it lies behind the first.
    """
    rows, length = mask.shape
    if not bool(((last >= 1) & (last < length)).all()):
        got = f"last tokens at {last.tolist()} of {length}"
        raise UsageError("a prompt needs a first and a last token", got=got, expected=f"1 .. {length - 1}")
    pictures = cameras * latents
    text = torch.arange(length).expand(rows, length)
    text = text + pictures * (text >= 1) + actions * (text >= last[:, None])
    # later inserted, earlier in the sequence: camera 0 is the static one, camera 1 the hand
    images = [1 + latents * (cameras - 1 - camera) + torch.arange(latents).expand(rows, -1) for camera in range(cameras)]
    action = last[:, None] + pictures + torch.arange(actions)
    order = torch.cat([text, *images, action], dim=1).argsort(dim=1)
    names = ["text", *(f"image.{camera}" for camera in range(cameras)), "action"]
    kinds = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([length, *[latents] * cameras, actions]))[order]
    valid = torch.cat([mask, mask.new_ones(rows, pictures + actions)], dim=1).gather(1, order)
    spans = {name: (kinds == kind) & valid for kind, name in enumerate(names)}
    return Layout(order, action, TokenMap(valid, {**spans, "padding": ~valid}))
