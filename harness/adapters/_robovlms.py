"""RoboVLMs' network: Kosmos-2 out of transformers' own modules, a learned action token and a recurrent policy head.

Source: RoboVLMs 8adc1d28, `robovlms/model/backbone/{base_backbone,robokosmos}.py`, history_type "post".
Axes: b samples, w frames of a window, f = b * w, t prompt tokens, s positions of the merged sequence, q latents of a picture,
n action tokens, d language width.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Kosmos2Model

from harness.adapters._robovlms_config import RoboVLMConfig
from harness.adapters._robovlms_head import HeadOutput, PolicyHead
from harness.errors import ContractError, UsageError

__all__ = ["Context", "RoboVLM"]


class Context(NamedTuple):
    """Everything before the policy head; `inputs_embeds` are not yet scaled, `last` is after the final norm."""

    static: Float[Tensor, "f q d"]
    hand: Float[Tensor, "f q d"] | None
    inputs_embeds: Float[Tensor, "f s d"]
    attention_mask: Bool[Tensor, "f s"]
    last: Float[Tensor, "f s d"]
    action_hs: Float[Tensor, "b w n d"]


@final
class RoboVLM(nn.Module):
    """The whole network, frozen and in eval mode. The language model sees one frame at a time; only the head sees the window."""

    def __init__(self, config: RoboVLMConfig, *, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        if attention not in ("eager", "sdpa"):
            raise UsageError("RoboVLMs runs under two attention kernels", got=attention, expected="eager or sdpa")
        self.config = config
        self.backbone = Kosmos2Model._from_config(copy.deepcopy(config.kosmos), attn_implementation=attention, dtype=dtype)
        kernels = {part.config._attn_implementation for part in self.backbone.modules() if hasattr(part, "config")}
        if type(self.backbone) is not Kosmos2Model or kernels != {attention}:
            raise ContractError("Kosmos-2 changed its attention kernel", got=(type(self.backbone).__name__, kernels), expected=attention)
        self.action_token = nn.Parameter(torch.zeros(config.width, dtype=dtype))
        self.act_head = PolicyHead(config.head, config.width, dtype=dtype)
        self.requires_grad_(False).eval()

    def mirror_hand_camera(self) -> None:
        """Gives the hand camera modules of its own over the same weights, so that every module runs once in a forward."""
        if self.config.use_hand_rgb:
            shared = {id(tensor): tensor for tensor in (*self.backbone.parameters(), *self.backbone.buffers())}
            parts = {"vision_model": self.backbone.vision_model, "image_to_text_projection": self.backbone.image_to_text_projection}
            self.hand = nn.ModuleDict(copy.deepcopy(parts, shared))

    def forward(self, **inputs: Tensor) -> tuple[Context, HeadOutput]:
        """Both halves of one forward on the inputs of `context`; the head starts from a state of zero."""
        context = self.context(**inputs)
        return context, self.act_head(context.action_hs)

    def context(
        self,
        vision_x: Float[Tensor, "b w 3 h h"],
        lang_x: Int[Tensor, "b t"],
        attention_mask: Bool[Tensor, "b t"],
        order: Int[Tensor, "b s"],
        action_at: Int[Tensor, "b n"],
        vision_gripper: Float[Tensor, "b w 3 h h"] | None = None,
    ) -> Context:
        """The hidden states of the action tokens, (b, w, n, d), and all that led to them; `order`, `action_at` as in `Layout`."""
        samples, window = vision_x.shape[:2]
        inserted = attention_mask.new_ones(samples, order.shape[1] - attention_mask.shape[1])
        mask = torch.cat([attention_mask, inserted], dim=1).gather(1, order)
        static = _look(self.backbone, vision_x.flatten(0, 1))
        hand = None if vision_gripper is None else _look(self.hand, vision_gripper.flatten(0, 1))
        lang_x, order, action_at, mask = (x.repeat_interleave(window, dim=0) for x in (lang_x, order, action_at, mask))
        text = self.backbone.text_model.model.embed_tokens(lang_x)
        action = self.action_token.expand(len(text), action_at.shape[1], -1)
        parts = torch.cat([text, static, *([] if hand is None else [hand]), action], dim=1)
        embeds = parts.gather(1, _across(order, parts))
        hidden = self.backbone.text_model.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)[0]
        action_hs = hidden.gather(1, _across(action_at, hidden)).unflatten(0, (samples, window))
        return Context(static, hand, embeds, mask, hidden, action_hs)


def _look(eye: nn.Module, pixels: Float[Tensor, "f 3 h h"]) -> Float[Tensor, "f q d"]:
    """The latents of a picture: every patch after the tower's last norm, each of length one, then the projection."""
    tower = eye.vision_model.model
    x = tower.encoder(inputs_embeds=tower.pre_layrnorm(tower.embeddings(pixels)))[0]
    return eye.image_to_text_projection(nn.functional.normalize(tower.post_layernorm(x), dim=-1))[0]


def _across(index: Int[Tensor, "f k"], x: Float[Tensor, "f s d"]) -> Int[Tensor, "f k d"]:
    return index[..., None].expand(-1, -1, x.shape[-1])
