"""openpi's stacked leaves beside the tensors of torch: which names a leaf holds, and how the axes of one lie in the other.

An axis is a letter, a torch axis a group of letters: `n d h` beside `nh d` is q_einsum (heads, width, head) and q_proj.weight
(heads * head, width). Letters: n heads, k kv heads, h head, d width, f MLP, e three widths (scale, shift, gate), t two widths,
z again the width, a actions, s state, u vocabulary; of SigLIP v heads, x head, w width, m MLP, p patch, c colours, g positions, o one.
Sources: openpi@15a9616a `models/gemma.py`, `siglip.py`, `pi0.py`; lerobot@7427f318 `policies/pi0`, `pi_gemma.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from harness.layouts.pi0 import EMBEDDING, EXPERT, PALIGEMMA

__all__ = ["Leaf", "Part", "leaves"]

Part = Literal["vlm", "expert", "vision"]
LANGUAGE = f"{PALIGEMMA}model.language_model."
VISION = f"{PALIGEMMA}model.vision_tower.vision_model."


class Leaf(NamedTuple):
    """A leaf and the tensors it holds: `{}` in a name stands for the layer, several names for an axis behind the layers'."""

    path: str
    names: tuple[str, ...]
    axes: str
    torch: str
    part: Part

    @property
    def stacked(self) -> bool:
        return "{}" in self.names[0]


def leaves(*, adaptive: bool, fused: bool) -> tuple[Leaf, ...]:
    """Every leaf of a π0, or with `adaptive` norms of a π0.5; `fused` where there are as many kv heads as heads (`gemma.py:176`)."""
    heads = ["action_in_proj:a d", "action_out_proj:d a"]
    heads += ["time_mlp_in:z d", "time_mlp_out:z d"] if adaptive else ["state_proj:s d", "action_time_mlp_in:t d", "action_time_mlp_out:z d"]
    found = [Leaf("PaliGemma/llm/embedder/input_embedding", (EMBEDDING,), "u d", "u d", "vlm")]
    found += _gemma("", LANGUAGE, "vlm", adaptive=False, fused=fused)
    found += _gemma("_1", f"{EXPERT}model.", "expert", adaptive=adaptive, fused=fused)
    found += _siglip()
    for name, _, axes in (entry.partition(":") for entry in heads):
        found += _linear(name, f"model.{name}", axes, "expert")
    return tuple(found)


def _gemma(suffix: str, stem: str, part: Part, *, adaptive: bool, fused: bool) -> Iterator[Leaf]:
    root, layer = "PaliGemma/llm/", stem + "layers.{}."

    def block(path: str, names: str, axes: str, torch: str) -> Leaf:
        return Leaf(f"{root}layers/{path}", tuple(f"{layer}{name}.weight" for name in names.split()), axes, torch, part)

    if fused:
        yield block(f"attn/qkv_einsum{suffix}/w", "self_attn.q_proj self_attn.k_proj self_attn.v_proj", "n d h", "nh d")
    else:
        yield block(f"attn/q_einsum{suffix}/w", "self_attn.q_proj", "n d h", "nh d")
        yield block(f"attn/kv_einsum{suffix}/w", "self_attn.k_proj self_attn.v_proj", "k d h", "kh d")
    yield block(f"attn/attn_vec_einsum{suffix}/w", "self_attn.o_proj", "n h d", "d nh")
    yield block(f"mlp{suffix}/gating_einsum", "mlp.gate_proj mlp.up_proj", "d f", "f d")
    yield block(f"mlp{suffix}/linear", "mlp.down_proj", "f d", "d f")
    norms = {
        f"{root}layers/pre_attention_norm{suffix}": f"{layer}input_layernorm",
        f"{root}layers/pre_ffw_norm{suffix}": f"{layer}post_attention_layernorm",
        f"{root}final_norm{suffix}": f"{stem}norm",
    }
    for path, name in norms.items():
        if adaptive:
            yield from _linear(f"{path}/Dense_0", f"{name}.dense", "d e", part)
        else:
            yield Leaf(f"{path}/scale", (f"{name}.weight",), "d", "d", part)


def _siglip() -> Iterator[Leaf]:
    root, block, layer = "PaliGemma/img/", "PaliGemma/img/Transformer/encoderblock/", VISION + "encoder.layers.{}."
    patch = f"{VISION}embeddings.patch_embedding"
    yield Leaf(f"{root}embedding/kernel", (f"{patch}.weight",), "p q c w", "w c p q", "vision")
    yield Leaf(f"{root}embedding/bias", (f"{patch}.bias",), "w", "w", "vision")
    yield Leaf(f"{root}pos_embedding", (f"{VISION}embeddings.position_embedding.weight",), "o g w", "og w", "vision")
    attention = f"{block}MultiHeadDotProductAttention_0"
    for path, name in {"query": "q_proj", "key": "k_proj", "value": "v_proj"}.items():
        yield Leaf(f"{attention}/{path}/kernel", (f"{layer}self_attn.{name}.weight",), "w v x", "vx w", "vision")
        yield Leaf(f"{attention}/{path}/bias", (f"{layer}self_attn.{name}.bias",), "v x", "vx", "vision")
    yield Leaf(f"{attention}/out/kernel", (f"{layer}self_attn.out_proj.weight",), "v x w", "w vx", "vision")
    yield Leaf(f"{attention}/out/bias", (f"{layer}self_attn.out_proj.bias",), "w", "w", "vision")
    yield from _linear(f"{block}MlpBlock_0/Dense_0", f"{layer}mlp.fc1", "w m", "vision")
    yield from _linear(f"{block}MlpBlock_0/Dense_1", f"{layer}mlp.fc2", "m w", "vision")
    norms = {f"{block}LayerNorm_0": f"{layer}layer_norm1", f"{block}LayerNorm_1": f"{layer}layer_norm2"}
    norms[f"{root}Transformer/encoder_norm"] = f"{VISION}post_layernorm"
    for path, name in norms.items():
        yield Leaf(f"{path}/scale", (f"{name}.weight",), "w", "w", "vision")
        yield Leaf(f"{path}/bias", (f"{name}.bias",), "w", "w", "vision")
    yield from _linear(f"{root}head", f"{PALIGEMMA}model.multi_modal_projector.linear", "w d", "vision")


def _linear(path: str, name: str, axes: str, part: Part) -> Iterator[Leaf]:
    given, made = axes.split()
    yield Leaf(f"{path}/kernel", (f"{name}.weight",), axes, f"{made} {given}", part)
    yield Leaf(f"{path}/bias", (f"{name}.bias",), made, made, part)
