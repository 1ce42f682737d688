"""Every extraction point of transformers' π0 with its module, the meaning of every position, and names like the packs'."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PI0Config

from harness.types import Clause, Point, TokenMap

__all__ = ["pi0_clauses", "token_maps", "upstream_names"]

TOWER, LANGUAGE, EXPERT = "model.vlm.vision_tower", "model.vlm.language_model", "model.dit"


def pi0_clauses(config: PI0Config, *, cameras: int, steps: int) -> dict[Point, Clause]:
    """Every point in the order the network runs, the last step's final norm at the end; pictures of a sample are folded together."""
    vision, text, expert = config.vlm_config.vision_config, config.vlm_config.text_config, config.dit_config
    clauses = {Point("vision", "embedding"): Clause(f"{TOWER}.embeddings", "output", vision.hidden_size, "raw", 0, fold=cameras)}
    for layer in range(vision.num_hidden_layers):
        block = f"{TOWER}.encoder.layers.{layer}"
        clauses[Point("vision", "input", layer)] = Clause(block, "input", vision.hidden_size, "raw", layer, fold=cameras)
        clauses[Point("vision", "output", layer)] = Clause(block, "output", vision.hidden_size, "raw", layer + 1, fold=cameras)
    clauses[Point("vision", "final_norm")] = Clause(f"{TOWER}.post_layernorm", "output", vision.hidden_size, "final", fold=cameras)
    clauses[Point("projector", "output")] = Clause("model.vlm.multi_modal_projector", "output", text.hidden_size, "raw", fold=cameras)
    clauses |= _gemma("lm", LANGUAGE, text.hidden_size, text.num_hidden_layers)
    for step in range(steps):
        phase = f"denoise step {step}, t={1 - step / steps:.2f}"
        clauses |= _gemma("expert", EXPERT, expert.hidden_size, expert.num_hidden_layers, step=step, phase=phase)
    return clauses


def _gemma(stack: str, module: str, width: int, depth: int, *, step: int | None = None, phase: str = "prefill") -> dict[Point, Clause]:
    """One pass of a Gemma; only the language model, which runs once, has a tuple of the framework's to be compared with."""

    def clause(name: str, side: str, index: int | None = None, norm: str = "raw") -> Clause:
        return Clause(f"{module}.{name}", side, width, norm, None if step is not None else index, phase=phase, call=step)  # type: ignore[arg-type]

    clauses = {Point(stack, "embedding", step=step): clause("layers.0", "input", 0)}
    for layer in range(depth):
        block = f"layers.{layer}"
        clauses[Point(stack, "input", layer, step)] = clause(block, "input", layer)
        clauses[Point(stack, "post_attn", layer, step)] = clause(f"{block}.post_attention_layernorm", "input")
        clauses[Point(stack, "output", layer, step)] = clause(block, "output", layer + 1 if layer + 1 < depth else None)
    return clauses | {Point(stack, "final_norm", step=step): clause("norm", "output", depth, norm="final")}


def token_maps(image: Tensor, valid: Tensor, shown: Tensor, *, patches: int, horizon: int) -> dict[str, TokenMap]:
    """The positions of every stack, from the image tokens and the valid ones (n, t) of the sequence and the shown cameras (n, c).

    A camera that is not shown runs through the tower (its positions are padding there) and has no token in the sequence.
    """
    rows, cameras = shown.shape
    seen = shown.repeat_interleave(patches, dim=1)
    owner = torch.arange(cameras).repeat_interleave(patches).expand(rows, -1)
    tower = _map(seen, {f"image.{index}": seen & (owner == index) for index in range(cameras)})
    rank = (image.long().cumsum(1) - 1) // patches
    slot = shown.long().cumsum(1) - 1  # which of the shown pictures a camera's is
    spans = {f"image.{index}": image & valid & shown[:, index, None] & (rank == slot[:, index, None]) for index in range(cameras)}
    action = (torch.arange(1 + horizon) > 0).expand(rows, -1)
    expert = _map(torch.ones_like(action), {"state": ~action, "action": action})
    return {"vision": tower, "projector": tower, "lm": _map(valid, {**spans, "text": valid & ~image}), "expert": expert}


def _map(mask: Tensor, spans: Mapping[str, Tensor]) -> TokenMap:
    return TokenMap(mask, {**spans, "padding": ~mask})


def upstream_names(values: Mapping[Point, Tensor]) -> dict[str, Tensor]:
    """Captured points as the packs of openpi and lerobot name theirs: `expert0.layer.N.*`, `expert1.tS.*`, `vision.*` as they are."""
    named = {}
    for point, value in values.items():
        if point.stack not in ("lm", "expert"):
            named[str(point)] = value
            continue
        stack = "expert0" if point.stack == "lm" else f"expert1.t{point.step}"
        if point.layer is None:
            named[f"{stack}.final_norm.output" if point.stream == "final_norm" else f"{stack}.{point.stream}"] = value
            continue
        named[f"{stack}.layer.{point.layer}.{point.stream}"] = value
        if point.stream == "output":
            named[f"{stack}.final_norm.input"] = value  # the last layer's stays
    return named
