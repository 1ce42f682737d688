"""Weights for the Prismatic network: a published checkpoint read strictly, or a seeded random one for mock subjects.

Source: openvla c8f03f48, `vla-scripts/extern/convert_openvla_weights_to_hf.py` (names :73-115, bfloat16 :239).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from harness.adapters._prismatic import Prismatic, PrismaticConfig
from harness.adapters._weights import published_tensors, random_state, read_json, refuse
from harness.errors import ContractError

__all__ = ["IGNORED", "PARTS", "build_random", "load", "load_config", "load_preprocessor", "published_shapes", "published_to_native"]

IGNORED = r"vision_backbone\.(fused_)?featurizer\.attn_pool\."
PARTS = {"vision": r"vision_backbone\.", "projector": r"projector\.", "language": r"language_model\."}
# Native name -> timm name, in order, for the part after `vision.featurizer.model.`; transformers' two ViTs differ in spelling.
_TIMM = [
    (r"^embeddings\.(cls_token)$", r"\1"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embedding(s|\.weight)$", "pos_embed"),
    (r"^embeddings\.patch_embedding(s\.projection)?\.", "patch_embed.proj."),
    (r"^(post_)?layernorm\.", "norm."),
    (r"^encoder\.layers?\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.(attention|self_attn)\.(q|k|v)_proj\.", r".attn.qkv."),
    (r"\.(attention\.o|self_attn\.out)_proj\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.scale_factor"),
]


def _published_name(native: str) -> str | None:
    """The checkpoint's name for a native tensor, or None for the mask token, which timm's ViT has no place for."""
    tower = re.match(r"vision\.((?:fused_)?featurizer)\.model\.(.*)", native)
    if tower is None:
        return native
    name = tower[2]
    for pattern, replacement in _TIMM:
        name = re.sub(pattern, replacement, name)
    return None if name == "embeddings.mask_token" else f"vision_backbone.{tower[1]}.{name}"


def _native_tensor(native: str, stored: Tensor) -> Tensor:
    """The part of a stored tensor that belongs to `native`, in its layout."""
    if part := re.search(r"\.(?:attention|self_attn)\.([qkv])_proj\.", native):
        if native.startswith("vision.") and len(stored) % 3 == 0:
            return stored.chunk(3)["qkv".index(part[1])].clone()
    elif native.endswith("embeddings.position_embeddings") and stored.ndim == 3:
        # timm adds positions to patches only (no_embed_class), transformers to the class token as well: zero is no addition.
        return torch.cat([stored.new_zeros(1, 1, stored.shape[-1]), stored], dim=1)
    elif native.endswith("embeddings.position_embedding.weight") and len(stored) == 1:
        return stored[0]
    return stored


def _published_shape(native: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stored shape of a native tensor: timm keeps q, k and v in one, and positions in a batch of one, for patches only."""
    if native.startswith("vision.") and re.search(r"\.(?:attention|self_attn)\.[qkv]_proj\.", native):
        return (3 * shape[0], *shape[1:])
    if native.endswith("embeddings.position_embeddings"):
        return (1, shape[1] - 1, shape[2])
    return (1, *shape) if native.endswith("embeddings.position_embedding.weight") else shape


def _native_shapes(config: PrismaticConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = Prismatic(config, attention="eager", dtype=torch.float32)
    return {name: tuple(x.shape) for name, x in module.state_dict().items()}


def published_shapes(config: PrismaticConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a published checkpoint of this configuration must hold."""
    native = _native_shapes(config)
    return {name: _published_shape(own, shape) for own, shape in native.items() if (name := _published_name(own)) is not None}


def published_to_native(state: Mapping[str, Tensor], config: PrismaticConfig, where: object = None) -> dict[str, Tensor]:
    """`state` under the names and in the layout of `Prismatic.state_dict()`; SigLIP's unused pooling head is dropped.

    Raises: DamagedError naming the first ten tensors that are missing, unexpected or of another shape, and their count.
    """
    shapes = _native_shapes(config)
    names = {native: _published_name(native) for native in shapes}
    wanted = {name for name in names.values() if name is not None}
    given = {name for name in state if not re.match(IGNORED, name)}
    refuse("tensors missing from the checkpoint", sorted(wanted - given), where)
    refuse("tensors the network has no place for", sorted(given - wanted), where)
    like = next(iter(state.values()))
    native_state = {
        native: like.new_zeros(shape) if (name := names[native]) is None else _native_tensor(native, state[name])
        for native, shape in shapes.items()
    }
    wrong = [f"{native} {tuple(x.shape)}, not {tuple(shapes[native])}" for native, x in native_state.items() if x.shape != shapes[native]]
    refuse("tensors of another shape than config.json describes", wrong, where)
    return native_state


def _assigned(config: PrismaticConfig, state: Mapping[str, Tensor], *, attention: str, dtype: torch.dtype) -> Prismatic:
    """The network with `state` as its parameters, never allocated twice."""
    with torch.device("meta"):
        module = Prismatic(config, attention=attention, dtype=dtype)
    module.load_state_dict(dict(state), strict=True, assign=True)
    # No checkpoint holds these, and a meta build leaves them empty: rotary frequencies (float32 in every dtype) and ids.
    device = next(iter(state.values())).device
    language = module.language_model
    language.model.rotary_emb = LlamaRotaryEmbedding(language.config).to(device)
    for tower in module.vision.values():
        if hasattr(embeddings := tower.model.embeddings, "position_ids"):
            embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
    empty = [name for name, x in (*module.named_parameters(), *module.named_buffers()) if x.is_meta]
    if empty:
        raise ContractError("tensors were left without values after the load", got=empty)
    return module


def load_config(directory: Path) -> PrismaticConfig:
    """The configuration of the checkpoint in `directory`; see `PrismaticConfig.from_dict` for what it raises."""
    return PrismaticConfig.from_dict(read_json(directory / "config.json"), directory / "config.json")


def load_preprocessor(directory: Path) -> dict[str, Any] | None:
    """The saved `preprocessor_config.json`, whose `tvf_*` fields win over any default; None when there is none."""
    return read_json(path) if (path := directory / "preprocessor_config.json").is_file() else None


def load(directory: Path, *, dtype: torch.dtype, device: torch.device | str, attention: str) -> Prismatic:
    """The published checkpoint in `directory`, every tensor accounted for and finite, before anything is computed.

    Raises: MissingError for a file that is not there; DamagedError for one that is truncated, a Git LFS pointer, of
    another model type, not finite, or whose tensors are not exactly those `config.json` describes.
    """
    config = load_config(directory)
    state = published_tensors(directory, dtype=dtype, device=device, ignored=IGNORED)
    return _assigned(config, published_to_native(state, config, directory), attention=attention, dtype=dtype)


def build_random(config: PrismaticConfig, *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu", attention: str) -> Prismatic:
    """A network with `random_state` as its weights."""
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in Prismatic(config, attention=attention, dtype=dtype).state_dict().items()}
    return _assigned(config, random_state(shapes, seed=seed, dtype=dtype, device=device), attention=attention, dtype=dtype)
