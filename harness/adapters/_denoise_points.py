"""What lerobot's and transformers' π0 have in common: points of SigLIP and of two Gemmas, and upstream's names for what is captured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from harness.types import Clause, Point, TokenMap

__all__ = ["Stack", "denoise_clauses", "expert_map", "token_map", "upstream_names"]


class Stack(NamedTuple):
    """Where a transformer is in the model, its width and number of blocks."""

    module: str
    width: int
    depth: int


def denoise_clauses(vision: Stack, projector: str, lm: Stack, expert: Stack, *, cameras: int, steps: int, scales: bool) -> dict[Point, Clause]:
    """Every point in the order the network runs, the last step's final norm at the end; pictures of a sample are folded together.

    `scales`: the Gemmas' norms have a submodule `scale`, the inverse root mean square of every token.
    """
    clauses = _siglip(vision, cameras) | {Point("projector", "output"): Clause(projector, "output", lm.width, "raw", fold=cameras)}
    clauses |= _gemma("lm", lm, scales=scales)
    for step in range(steps):
        clauses |= _gemma("expert", expert, scales=scales, step=step, phase=f"denoise step {step}, t={1 - step / steps:.2f}")
    return clauses


def _siglip(tower: Stack, cameras: int) -> dict[Point, Clause]:
    clauses = {Point("vision", "embedding"): Clause(f"{tower.module}.embeddings", "output", tower.width, "raw", 0, fold=cameras)}
    for layer in range(tower.depth):
        block = f"{tower.module}.encoder.layers.{layer}"
        clauses[Point("vision", "input", layer)] = Clause(block, "input", tower.width, "raw", layer, fold=cameras)
        clauses[Point("vision", "output", layer)] = Clause(block, "output", tower.width, "raw", layer + 1, fold=cameras)
    return clauses | {Point("vision", "final_norm"): Clause(f"{tower.module}.post_layernorm", "output", tower.width, "final", fold=cameras)}


def _gemma(stack: str, gemma: Stack, *, scales: bool, step: int | None = None, phase: str = "prefill") -> dict[Point, Clause]:
    """One pass of a Gemma; only the language model, which runs once, has a tuple of the framework's to be compared with."""

    def clause(name: str, side: str, index: int | None = None, *, wide: int = gemma.width, norm: str = "raw") -> Clause:
        return Clause(f"{gemma.module}.{name}", side, wide, norm, None if step is not None else index, phase=phase, call=step)  # type: ignore[arg-type]

    clauses = {Point(stack, "embedding", step=step): clause("layers.0", "input", 0)}
    for layer in range(gemma.depth):
        block = f"layers.{layer}"
        clauses[Point(stack, "input", layer, step)] = clause(block, "input", layer)
        if scales:
            clauses[Point(stack, "pre_attn_scale", layer, step)] = clause(f"{block}.input_layernorm.scale", "output", wide=1)
        clauses[Point(stack, "post_attn", layer, step)] = clause(f"{block}.post_attention_layernorm", "input")
        if scales:
            clauses[Point(stack, "pre_mlp_scale", layer, step)] = clause(f"{block}.post_attention_layernorm.scale", "output", wide=1)
        clauses[Point(stack, "output", layer, step)] = clause(block, "output", layer + 1 if layer + 1 < gemma.depth else None)
    return clauses | {Point(stack, "final_norm", step=step): clause("norm", "output", gemma.depth, norm="final")}


def token_map(mask: Tensor, spans: Mapping[str, Tensor]) -> TokenMap:
    return TokenMap(mask, {**spans, "padding": ~mask})


def expert_map(rows: int, horizon: int) -> TokenMap:
    """The state, then the actions of a chunk; nothing is padded."""
    action = (torch.arange(1 + horizon) > 0).expand(rows, -1)
    return token_map(torch.ones_like(action), {"state": ~action, "action": action})


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
