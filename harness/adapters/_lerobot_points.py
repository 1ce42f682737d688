"""Every extraction point of π0 with its module, the meaning of every position, and upstream's names for what is captured."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.adapters._lerobot_config import PI0Config
from harness.types import Clause, Point, TokenMap

__all__ = ["pi0_clauses", "token_maps", "upstream_names"]


def pi0_clauses(config: PI0Config, *, cameras: int, steps: int) -> dict[Point, Clause]:
    """Every point in the order the network runs, the last step's final norm at the end; pictures of a sample are folded together."""
    clauses = _vision(config, cameras) | _gemma("lm", "language_model", config.sizes.vlm.width, config.sizes.vlm.depth)
    expert = config.sizes.expert
    for step in range(steps):
        clauses |= _gemma("expert", "expert", expert.width, expert.depth, step=step, phase=f"denoise step {step}, t={1 - step / steps:.2f}")
    return clauses


def _vision(config: PI0Config, cameras: int) -> dict[Point, Clause]:
    vision, tower = config.sizes.vision, "vision_tower"
    clauses = {Point("vision", "embedding"): Clause(f"{tower}.embeddings", "output", vision.width, "raw", 0, fold=cameras)}
    for layer in range(vision.depth):
        block = f"{tower}.encoder.layers.{layer}"
        clauses[Point("vision", "input", layer)] = Clause(block, "input", vision.width, "raw", layer, fold=cameras)
        clauses[Point("vision", "output", layer)] = Clause(block, "output", vision.width, "raw", layer + 1, fold=cameras)
    clauses[Point("vision", "final_norm")] = Clause(f"{tower}.post_layernorm", "output", vision.width, "final", fold=cameras)
    clauses[Point("projector", "output")] = Clause("projector", "output", config.sizes.vlm.width, "raw", fold=cameras)
    return clauses


def _gemma(stack: str, module: str, width: int, depth: int, *, step: int | None = None, phase: str = "prefill") -> dict[Point, Clause]:
    """One pass of a Gemma; only the language model, which runs once, has a tuple of the framework's to be compared with."""

    def clause(name: str, side: str, index: int | None = None, *, wide: int = width, norm: str = "raw") -> Clause:
        return Clause(f"{module}.{name}", side, wide, norm, None if step is not None else index, phase=phase, call=step)  # type: ignore[arg-type]

    clauses = {Point(stack, "embedding", step=step): clause("layers.0", "input", 0)}
    for layer in range(depth):
        block = f"layers.{layer}"
        clauses |= {
            Point(stack, "input", layer, step): clause(block, "input", layer),
            Point(stack, "pre_attn_scale", layer, step): clause(f"{block}.input_layernorm.scale", "output", wide=1),
            Point(stack, "post_attn", layer, step): clause(f"{block}.post_attention_layernorm", "input"),
            Point(stack, "pre_mlp_scale", layer, step): clause(f"{block}.post_attention_layernorm.scale", "output", wide=1),
            Point(stack, "output", layer, step): clause(block, "output", layer + 1 if layer + 1 < depth else None),
        }
    return clauses | {Point(stack, "final_norm", step=step): clause("norm", "output", depth, norm="final")}


def token_maps(image_mask: Tensor, token_mask: Tensor, *, patches: int, horizon: int) -> dict[str, TokenMap]:
    """The positions of every stack: pictures camera by camera, words, state and actions; a masked camera is padding."""
    rows, cameras = image_mask.shape
    seen = image_mask.repeat_interleave(patches, dim=1)
    camera = torch.arange(cameras).repeat_interleave(patches).expand(rows, -1)
    pictures = {f"image.{index}": seen & (camera == index) for index in range(cameras) if bool(image_mask[:, index].any())}
    pad = torch.zeros_like(token_mask)
    words = {name: torch.cat([span, pad], dim=1) for name, span in pictures.items()}
    words["text"] = torch.cat([torch.zeros_like(seen), token_mask], dim=1)
    action = (torch.arange(1 + horizon) > 0).expand(rows, -1)
    return {
        "vision": _map(seen, pictures),
        "projector": _map(seen, pictures),
        "lm": _map(torch.cat([seen, token_mask], dim=1), words),
        "expert": _map(torch.ones_like(action), {"state": ~action, "action": action}),
    }


def _map(mask: Tensor, spans: Mapping[str, Tensor]) -> TokenMap:
    return TokenMap(mask, {**spans, "padding": ~mask})


def upstream_names(values: Mapping[Point, Tensor]) -> dict[str, Tensor]:
    """Captured points under the names of the packs: `expert0.layer.N.*` of the language model, `expert1.tS.*` of the action expert."""
    named = {}
    for point, value in values.items():
        stack = "expert0" if point.stack == "lm" else f"expert1.t{point.step}"
        if point.layer is not None:
            named[f"{stack}.layer.{point.layer}.{point.stream}"] = value
            if point.stream == "output":
                named[f"{stack}.final_norm.input"] = value  # the last layer's stays
        else:
            named[f"{stack}.final_norm.output" if point.stream == "final_norm" else f"{stack}.{point.stream}"] = value
    return named
