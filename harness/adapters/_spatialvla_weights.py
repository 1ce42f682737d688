"""Weights for the SpatialVLA network: a published checkpoint read strictly, or seeded random ones.

Source: SpatialVLA e4807532, `model/modeling_spatialvla.py:524-525` (spatial rows over the tail of the vocabulary); transformers
5.23 renamed BEiT's and SigLIP's parts, published checkpoints keep the names of 4.47.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.gemma2.modeling_gemma2 import Gemma2RotaryEmbedding
from transformers.models.zoedepth.modeling_zoedepth import LogBinomialSoftmax

from harness.adapters._spatialvla import SpatialVLA
from harness.adapters._spatialvla_config import SpatialVLAConfig
from harness.adapters._weights import published_tensors, random_state, read_json, refuse
from harness.errors import ContractError

__all__ = ["build_random", "load", "load_config", "published_shapes", "published_to_native"]

VOCABULARY, HEAD, SPATIAL = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight", "spatial_embed_tokens.weight"
# Native name -> published name, in order.
_RENAMED = [
    (r"^vision_tower\.", "vision_tower.vision_model."),
    (r"^(vision_zoe_model\.backbone)\.beit\.shared_position_bias\.", r"\1.encoder.relative_position_bias."),
    (r"^(vision_zoe_model\.backbone)\.beit\.layers\.", r"\1.encoder.layer."),
    (r"^(vision_zoe_model\.backbone)\.beit\.", r"\1."),
]
_RENAMED_IN_BEIT = [
    (r"\.relative_position_bias\.", ".attention.attention.relative_position_bias."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
]


def _published_name(native: str) -> str:
    for pattern, replacement in _RENAMED:
        native = re.sub(pattern, replacement, native)
    if native.startswith("vision_zoe_model.backbone.encoder.layer."):
        for pattern, replacement in _RENAMED_IN_BEIT:
            native = re.sub(pattern, replacement, native)
    return native


def _empty(config: SpatialVLAConfig, dtype: torch.dtype = torch.float32) -> SpatialVLA:
    with torch.device("meta"):
        return SpatialVLA(config, dtype=dtype)


def _names(config: SpatialVLAConfig, native: Mapping[str, Tensor]) -> dict[str, str]:
    """Native name to published name; a tied head is stored as the vocabulary."""
    names = {name: _published_name(name) for name in native}
    return names | ({HEAD: VOCABULARY} if config.text.tie_word_embeddings else {})


def published_shapes(config: SpatialVLAConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint with this configuration; nothing is allocated."""
    native = _empty(config).state_dict()
    return {published: tuple(native[name].shape) for name, published in _names(config, native).items()}


def published_to_native(state: Mapping[str, Tensor], config: SpatialVLAConfig, where: object = None) -> dict[str, Tensor]:
    """`state` under the names of `SpatialVLA.state_dict()`, spatial rows written over the vocabulary's tail as upstream's load does.

    Raises: DamagedError naming the first ten tensors that are missing, unexpected or of another shape, and their count.
    """
    shapes = {name: x.shape for name, x in _empty(config).state_dict().items()}
    names = _names(config, shapes)
    refuse("tensors missing from the checkpoint", sorted(set(names.values()) - set(state)), where)
    refuse("tensors the network has no place for", sorted(set(state) - set(names.values())), where)
    found = {name: state[published].shape for name, published in names.items()}
    wrong = [f"{name} {tuple(shape)}, not {tuple(shapes[name])}" for name, shape in found.items() if shape != shapes[name]]
    refuse("tensors of another shape than config.json describes", wrong, where)
    state = dict(state)
    if config.use_spatial_token:
        state[VOCABULARY] = torch.cat([state[VOCABULARY][: -config.spatial_token_num], state[SPATIAL]])
    return {name: state[published] for name, published in names.items()}


def _assigned(config: SpatialVLAConfig, state: Mapping[str, Tensor], dtype: torch.dtype) -> SpatialVLA:
    """The network with `state` as its parameters, never allocated twice."""
    module = _empty(config, dtype)
    module.load_state_dict(dict(state), strict=True, assign=True)
    # No checkpoint holds these, and a meta build leaves them empty: rotary frequencies (float32 in every dtype), a factor, indices.
    device = next(iter(state.values())).device
    language, patches = module.language_model.model, module.vision_tower.embeddings
    language.rotary_emb = Gemma2RotaryEmbedding(language.config).to(device)
    language.embed_tokens.embed_scale = torch.tensor(language.embed_tokens.scalar_embed_scale, device=device)
    patches.position_ids = torch.arange(patches.num_positions, device=device)[None]
    for part in module.modules():
        if isinstance(part, LogBinomialSoftmax):
            part.k_idx = torch.arange(part.k, device=device).view(1, -1, 1, 1)
            part.k_minus_1 = torch.tensor([part.k - 1], device=device).view(1, -1, 1, 1)
    if empty := [name for name, x in (*module.named_parameters(), *module.named_buffers()) if x.is_meta]:
        raise ContractError("tensors were left without values after the load", got=empty)
    return module.requires_grad_(False).eval()


def load_config(directory: Path) -> SpatialVLAConfig:
    """The configuration of the checkpoint in `directory`; see `SpatialVLAConfig.from_dict` for what it raises."""
    return SpatialVLAConfig.from_dict(read_json(directory / "config.json"), directory / "config.json")


def load(directory: Path, *, dtype: torch.dtype, device: torch.device | str) -> SpatialVLA:
    """The published checkpoint in `directory`, every tensor accounted for and finite, before anything is computed.

    Raises: MissingError for a file that is not there; DamagedError for one that is truncated, a Git LFS pointer, of
    another model type, not finite, or whose tensors are not exactly those `config.json` describes.
    """
    config = load_config(directory)
    return _assigned(config, published_to_native(published_tensors(directory, dtype=dtype, device=device), config, directory), dtype)


def build_random(config: SpatialVLAConfig, *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> SpatialVLA:
    """A network with `random_state` as its weights."""
    shapes = {name: tuple(x.shape) for name, x in _empty(config).state_dict().items()}
    state = random_state(shapes, seed=seed, dtype=dtype, device=device)
    return _assigned(config, state | ({HEAD: state[VOCABULARY]} if config.text.tie_word_embeddings else {}), dtype)
