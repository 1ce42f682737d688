"""What π0's parameter tree says of its sizes: read off the shapes of the leaves, or off a card; and the leaves of given sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import DamagedError

__all__ = ["ACTION_EXPERT", "ENCODER", "GEMMA", "Sizes", "infer", "leaf_shapes", "sizes_of"]

GEMMA, ENCODER = "PaliGemma/llm", "PaliGemma/img"
BLOCKS = f"{GEMMA}/layers"
EYES = f"{ENCODER}/Transformer/encoderblock"
ACTION_EXPERT = "_1"  # suffix of its leaves' names; PaliGemma's have none
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the vision tower, the two experts that share every attention, and the action interface.

    `fused`: query, key and value in one einsum, as upstream has it where there are as many key heads as heads.
    """

    vision_depth: int
    vision_width: int
    vision_mlp: int
    vision_heads: int
    patch: tuple[int, int]
    patches: int
    vocabulary: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    mlp: int
    expert_width: int
    expert_mlp: int
    action_dim: int
    pi05: bool

    @property
    def fused(self) -> bool:
        return self.heads == self.kv_heads


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Sizes from a card, or from the description of a parity pack. Raises DamagedError when a field is missing."""
    try:
        language, expert, eyes = config["paligemma"], config["action_expert"], config["siglip"]
        (height, width), (rows, columns) = config["image_resolution"], eyes["patch_size"]
        return Sizes(
            vision_depth=eyes["depth"],
            vision_width=eyes["width"],
            vision_mlp=eyes["mlp_dim"],
            vision_heads=eyes["num_heads"],
            patch=(rows, columns),
            patches=(height // rows) * (width // columns),
            vocabulary=config["vocab_size"],
            depth=language["depth"],
            heads=language["num_heads"],
            kv_heads=language["num_kv_heads"],
            head_dim=language["head_dim"],
            width=language["width"],
            mlp=language["mlp_dim"],
            expert_width=expert["width"],
            expert_mlp=expert["mlp_dim"],
            action_dim=config["action_dim"],
            pi05=config["pi05"],
        )
    except (KeyError, TypeError, ValueError) as error:
        expected = "paligemma, action_expert, siglip, vocab_size, image_resolution, action_dim, pi05"
        raise DamagedError("a π0 configuration lacks a field", got=repr(error), expected=expected) from error


def infer(shapes: Shapes, where: object) -> Sizes:
    """Sizes that a checkpoint's leaves have. Raises DamagedError without the leaves that tell them, or with odd ones."""
    try:
        *_, eye_width, eye_heads, _ = shapes[f"{EYES}/MultiHeadDotProductAttention_0/query/kernel"]
        rows, columns, _, _ = shapes[f"{ENCODER}/embedding/kernel"]
        if fused := f"{BLOCKS}/attn/qkv_einsum/w" in shapes:
            depth, _, heads, width, head_dim = shapes[f"{BLOCKS}/attn/qkv_einsum/w"]
        else:
            depth, heads, width, head_dim = shapes[f"{BLOCKS}/attn/q_einsum/w"]
        return Sizes(
            vision_depth=shapes[f"{EYES}/LayerNorm_0/scale"][0],
            vision_width=eye_width,
            vision_mlp=shapes[f"{EYES}/MlpBlock_0/Dense_0/kernel"][2],
            vision_heads=eye_heads,
            patch=(rows, columns),
            patches=shapes[f"{ENCODER}/pos_embedding"][1],
            vocabulary=shapes[f"{GEMMA}/embedder/input_embedding"][0],
            depth=depth,
            heads=heads,
            kv_heads=heads if fused else shapes[f"{BLOCKS}/attn/kv_einsum/w"][2],
            head_dim=head_dim,
            width=width,
            mlp=shapes[f"{BLOCKS}/mlp/linear"][1],
            expert_width=shapes["action_in_proj/kernel"][1],
            expert_mlp=shapes[f"{BLOCKS}/mlp{ACTION_EXPERT}/linear"][1],
            action_dim=shapes["action_in_proj/kernel"][0],
            pi05="time_mlp_in/kernel" in shapes,
        )
    except (KeyError, ValueError, IndexError) as error:
        got, expected = f"{len(shapes)} leaves, but {error}", "SigLIP, Gemma and an action expert"
        raise DamagedError("this parameter tree is not π0's", where=where, got=got, expected=expected) from error


def leaf_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every leaf of a checkpoint of these sizes with its shape; leaves of a stack have the layers first."""
    s = sizes
    leaves = _dense("", {"action_in_proj": (s.action_dim, s.expert_width), "action_out_proj": (s.expert_width, s.action_dim)})
    if s.pi05:
        leaves |= _dense("", dict.fromkeys(("time_mlp_in", "time_mlp_out"), (s.expert_width, s.expert_width)))
    else:
        leaves |= _dense("", {"state_proj": (s.action_dim, s.expert_width), "action_time_mlp_in": (2 * s.expert_width, s.expert_width)})
        leaves |= _dense("", {"action_time_mlp_out": (s.expert_width, s.expert_width)})
    leaves[f"{GEMMA}/embedder/input_embedding"] = (s.vocabulary, s.width)
    leaves |= _expert(s, "", s.width, s.mlp, adaptive=False) | _expert(s, ACTION_EXPERT, s.expert_width, s.expert_mlp, adaptive=s.pi05)
    return leaves | _vision(s)


def _dense(parent: str, kernels: Shapes, *, layers: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    named = {f"{parent}{name}/kernel": (*layers, *shape) for name, shape in kernels.items()}
    return named | {f"{parent}{name}/bias": (*layers, shape[-1]) for name, shape in kernels.items()}


def _expert(s: Sizes, suffix: str, width: int, mlp: int, *, adaptive: bool) -> dict[str, tuple[int, ...]]:
    q, kv = (s.heads, width, s.head_dim), (2, s.kv_heads, width, s.head_dim)
    attention = {"qkv_einsum": (3, *q)} if s.fused else {"q_einsum": q, "kv_einsum": kv}
    leaves = {f"attn/{name}{suffix}/w": shape for name, shape in {**attention, "attn_vec_einsum": (s.heads, s.head_dim, width)}.items()}
    leaves |= {f"mlp{suffix}/gating_einsum": (2, width, mlp), f"mlp{suffix}/linear": (mlp, width)}
    for norm in ("pre_attention_norm", "pre_ffw_norm"):
        leaves |= _norm(f"{norm}{suffix}", width, adaptive)
    last = {f"{GEMMA}/{name}": shape for name, shape in _norm(f"final_norm{suffix}", width, adaptive).items()}
    return {f"{BLOCKS}/{name}": (s.depth, *shape) for name, shape in leaves.items()} | last


def _norm(name: str, width: int, adaptive: bool) -> dict[str, tuple[int, ...]]:
    return _dense(f"{name}/", {"Dense_0": (width, 3 * width)}) if adaptive else {f"{name}/scale": (width,)}


def _vision(s: Sizes) -> dict[str, tuple[int, ...]]:
    d, head = s.vision_width, s.vision_width // s.vision_heads
    layers, attention = (s.vision_depth,), f"{EYES}/MultiHeadDotProductAttention_0/"
    leaves = _dense(f"{ENCODER}/", {"embedding": (*s.patch, 3, d), "head": (d, s.width)}) | {f"{ENCODER}/pos_embedding": (1, s.patches, d)}
    leaves |= _dense(f"{EYES}/MlpBlock_0/", {"Dense_0": (d, s.vision_mlp), "Dense_1": (s.vision_mlp, d)}, layers=layers)
    leaves |= _dense(attention, {"out": (s.vision_heads, head, d)}, layers=layers)
    for name in ("query", "key", "value"):
        leaves[f"{attention}{name}/kernel"] = (*layers, d, s.vision_heads, head)
        leaves[f"{attention}{name}/bias"] = (*layers, s.vision_heads, head)
    norms = {f"{EYES}/LayerNorm_{index}/": layers for index in (0, 1)} | {f"{ENCODER}/Transformer/encoder_norm/": ()}
    return leaves | {f"{norm}{name}": (*lead, d) for norm, lead in norms.items() for name in ("scale", "bias")}
