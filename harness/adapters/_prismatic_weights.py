"""Weights for the Prismatic network: a published checkpoint read strictly, or a seeded random one for mock subjects.

Source: openvla c8f03f48, `vla-scripts/extern/convert_openvla_weights_to_hf.py` (names :73-115, bfloat16 :239).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from harness import checkpoints
from harness.adapters._prismatic import Prismatic, PrismaticConfig
from harness.errors import ContractError, DamagedError, MissingError

__all__ = ["build_random", "load", "load_config", "load_preprocessor", "published_to_native"]

_WHOLE = "download the whole checkpoint folder"
_POOL = re.compile(r"vision_backbone\.(fused_)?featurizer\.attn_pool\.")
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


def published_to_native(state: Mapping[str, Tensor], config: PrismaticConfig, where: object = None) -> dict[str, Tensor]:
    """`state` under the names and in the layout of `Prismatic.state_dict()`; SigLIP's unused pooling head is dropped.

    Raises: DamagedError naming the first ten tensors that are missing, unexpected or of another shape, and their count.
    """
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in Prismatic(config, attention="eager", dtype=torch.float32).state_dict().items()}
    names = {native: _published_name(native) for native in shapes}
    wanted = {name for name in names.values() if name is not None}
    given = {name for name in state if not _POOL.match(name)}
    _refuse("tensors missing from the checkpoint", sorted(wanted - given), where)
    _refuse("tensors the network has no place for", sorted(given - wanted), where)
    like = next(iter(state.values()))
    native_state = {
        native: like.new_zeros(shape) if (name := names[native]) is None else _native_tensor(native, state[name])
        for native, shape in shapes.items()
    }
    wrong = [f"{native} {tuple(x.shape)}, not {tuple(shapes[native])}" for native, x in native_state.items() if x.shape != shapes[native]]
    _refuse("tensors of another shape than config.json describes", wrong, where)
    return native_state


def _refuse(what: str, names: list[str], where: object) -> None:
    if names:
        more = f" … ({len(names)} in all)" if len(names) > 10 else ""
        raise DamagedError(f"{len(names)} {what}", where=where, got=", ".join(names[:10]) + more, expected="none")


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises: MissingError without the file, DamagedError when it holds something else."""
    if not path.is_file():
        raise MissingError(f"the checkpoint has no {path.name}", where=path.parent, next=_WHOLE)
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path.name} is not JSON", where=path, got=error) from error
    if not isinstance(parsed, dict):
        raise DamagedError(f"{path.name} is no JSON object", where=path, got=type(parsed).__name__)
    return parsed


def _shards(directory: Path) -> dict[Path, set[str] | None]:
    """Each weight file, present and whole, with the tensors the index promises in it (None: there is no index)."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    shards: dict[Path, set[str] | None] = {single: None}
    if not single.is_file() and index.is_file():
        table = _json(index).get("weight_map")
        files = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
        if not files or any(Path(name).name != name for name in files):
            raise DamagedError("the index has no usable weight_map", where=index, got=table, expected="tensor -> file of this folder")
        shards = {directory / name: {tensor for tensor, file in table.items() if file == name} for name in files}
    checkpoints.verify(directory, next=_WHOLE)
    if not index.is_file() and not single.is_file():
        raise MissingError("the checkpoint has shards but no index", where=directory, expected=index.name, next=_WHOLE)
    return shards


def _tensors(shards: Mapping[Path, set[str] | None], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Every tensor, cast one at a time so that the stored copy never stands beside the whole cast one."""
    tensors: dict[str, Tensor] = {}
    for path, promised in shards.items():
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                names = set(file.keys())
                if promised is not None and names != promised:
                    _refuse("tensors differ between the index and its shard", sorted(names ^ promised), path)
                for name in sorted(names):
                    if not _POOL.match(name):
                        tensors[name] = _sound(file.get_tensor(name), name, path, dtype)
        except SafetensorError as error:
            raise DamagedError("truncated or malformed safetensors file", where=path, got=error, next="download it again") from error
    return tensors


def _sound(stored: Tensor, name: str, path: Path, dtype: torch.dtype) -> Tensor:
    """`stored` as `dtype`; DamagedError unless it holds finite floating-point numbers there."""
    cast = stored.to(dtype)
    if not stored.is_floating_point() or not bool(torch.isfinite(cast).all()):
        raise DamagedError(f"{name} holds NaN, infinity or no floating-point numbers", where=path, got=stored.dtype, expected=f"finite {dtype}")
    return cast


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
    return PrismaticConfig.from_dict(_json(directory / "config.json"), directory / "config.json")


def load_preprocessor(directory: Path) -> dict[str, Any] | None:
    """The saved `preprocessor_config.json`, whose `tvf_*` fields win over any default; None when there is none."""
    return _json(path) if (path := directory / "preprocessor_config.json").is_file() else None


def load(directory: Path, *, dtype: torch.dtype, device: torch.device | str, attention: str) -> Prismatic:
    """The published checkpoint in `directory`, every tensor accounted for and finite, before anything is computed.

    Raises: MissingError for a file that is not there; DamagedError for one that is truncated, a Git LFS pointer, of
    another model type, not finite, or whose tensors are not exactly those `config.json` describes.
    """
    config = load_config(directory)
    state = _tensors(_shards(directory), dtype, torch.device(device))
    return _assigned(config, published_to_native(state, config, directory), attention=attention, dtype=dtype)


def build_random(config: PrismaticConfig, *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu", attention: str) -> Prismatic:
    """A network whose every part matters: unit-gain weights, norms and LayerScale about 1, no zero bias.

    The same for one seed on any machine and torch version (numpy's stream, one per tensor, keyed by its name).
    """
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in Prismatic(config, attention=attention, dtype=dtype).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        x = np.random.default_rng([seed, crc32(name.encode())]).standard_normal(tuple(shape), dtype=np.float32)
        if name.endswith("lambda1") or (len(shape) == 1 and name.endswith("weight")):
            x = 1 + 0.2 * x
        elif len(shape) == 1:
            x = 0.1 * x
        elif "embed_tokens" not in name and name.endswith("weight") and "position" not in name:
            x = x / np.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(x, dtype=np.float32)).to(device, dtype)
    return _assigned(config, state, attention=attention, dtype=dtype)
