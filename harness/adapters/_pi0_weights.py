"""transformers' own π0 out of a checkpoint, strictly and completely, out of a seed, or of shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PI0Config, PI0ForConditionalGeneration
from transformers.models.gemma.modeling_gemma import GemmaRotaryEmbedding
from transformers.models.pi0.modeling_pi0 import PI0TimestepEmbeddings

from harness.adapters._transformer import require_attention
from harness.adapters._weights import published_tensors, random_state, read_json, refuse
from harness.errors import ContractError, DamagedError
from harness.layouts.pi0 import EMBEDDING, HEAD, native_name, saved_name

__all__ = ["build", "build_random", "load", "load_config", "published_shapes", "published_state"]

# A saved dtype or kernel must not decide ours, and a saved output_* switch would install transformers' permanent hooks.
_DROPPED = ("dtype", "torch_dtype", "_attn_implementation", "attn_implementation", "output_hidden_states", "output_attentions")
_EMBEDDING = "model.vlm.language_model.embed_tokens.weight"


def load_config(directory: Path) -> PI0Config:
    """The configuration in `directory`. Raises MissingError, and DamagedError for another layout with the command that converts it."""
    next = f"harness convert {directory} DESTINATION --to pi0"
    if (directory / "params").is_dir():
        raise DamagedError("this is a checkpoint of openpi", where=directory, got="params/", expected="transformers' pi0", next=next)
    parsed = read_json(directory / "config.json")
    if parsed.get("model_type") != "pi0" and parsed.get("type") in ("pi0", "pi05"):
        raise DamagedError("this is a checkpoint of lerobot", where=directory, got=f'"type": "{parsed["type"]}"', expected='"model_type": "pi0"', next=next)
    return config_of(parsed, directory / "config.json")


def config_of(parsed: Mapping[str, Any], where: object) -> PI0Config:
    """transformers' configuration from parsed JSON or a card. Raises DamagedError for another model, or fields that do not fit."""
    if parsed.get("model_type") != "pi0":
        raise DamagedError("not a checkpoint of transformers' pi0", where=where, got=f"model_type {parsed.get('model_type')}", expected="pi0")
    try:
        config = PI0Config.from_dict(_without(parsed))
        vision, text, expert = config.vlm_config.vision_config, config.vlm_config.text_config, config.dit_config
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise DamagedError("a part's configuration is not usable", where=where, got=error) from error
    shared = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    wrong = {
        "the experts differ in layers or heads": any(getattr(text, name) != getattr(expert, name) for name in shared),
        f"projection_dim {vision.projection_dim} is not the language width {text.hidden_size}": vision.projection_dim != text.hidden_size,
        "SigLIP has its pooling head": getattr(vision, "vision_use_head", False),
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise DamagedError("fields of the configuration disagree", where=where, got="; ".join(found), expected="a π0 of transformers")
    return config


def build(config: PI0Config, *, dtype: torch.dtype, attention: str) -> PI0ForConditionalGeneration:
    """The network without values, for shapes alone."""
    with torch.device("meta"):
        model = PI0ForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attention)
    for part in (model, model.model.vlm.language_model, model.model.vlm.vision_tower, model.model.dit):
        require_attention(part, attention)
    return model


def build_random(config: PI0Config, *, seed: int, dtype: torch.dtype, device: str, attention: str) -> PI0ForConditionalGeneration:
    """A network with random weights in which every part matters; Gemma's norms and embeddings at the size its arithmetic expects."""
    model = build(config, dtype=dtype, attention=attention)
    state = random_state({name: tuple(x.shape) for name, x in model.state_dict().items()}, seed=seed, dtype=dtype, device=device)
    for name in state:
        if ".vision_tower." not in name and name.endswith("norm.weight"):
            state[name] = state[name] - 1  # Gemma multiplies by one more than its weight
        if name.endswith("embed_tokens.weight"):
            state[name] = state[name] * state[name].shape[1] ** -0.5  # and words by the root of the width
    return _assigned(model, state)


def load(directory: Path, *, dtype: torch.dtype, device: str, attention: str) -> PI0ForConditionalGeneration:
    """The checkpoint in `directory`, every tensor accounted for and finite, before anything is computed.

    Raises MissingError for a file that is not there; DamagedError for one that is truncated, of another model, not finite,
    with two embeddings, or whose tensors are not exactly those that `config.json` describes.
    """
    model = build(load_config(directory), dtype=dtype, attention=attention)
    state = published_state(directory, dtype=dtype, device=device)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    refuse("tensors missing from the checkpoint", sorted(shapes.keys() - state.keys()), directory)
    refuse("tensors the network has no place for", sorted(state.keys() - shapes.keys()), directory)
    wrong = [f"{name} {tuple(state[name].shape)}, not {shape}" for name, shape in shapes.items() if tuple(state[name].shape) != shape]
    refuse("tensors of another shape than config.json describes", wrong, directory)
    return _assigned(model, state)


def published_state(directory: Path, *, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """The checkpoint's tensors under the names of the network's own `state_dict`. Raises as `load` does for the files."""
    stored = published_tensors(directory, dtype=dtype, device=device)
    names = {name: _own_name(name) for name in stored}
    refuse("tensors the network has no place for", sorted(name for name, own in names.items() if own is None), directory)
    if {HEAD, EMBEDDING} <= {saved_name(name) for name in stored}:
        got, expected = "embed_tokens and lm_head, which would silently win", "one of the two"
        raise DamagedError("the file holds two embeddings", where=directory, got=got, expected=expected)
    if len(set(names.values())) < len(names):
        raise DamagedError("two tensors have the same place", where=directory, got=", ".join(names), expected="one naming")
    return {names[name]: tensor for name, tensor in stored.items()}


def published_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by the name that this checkpoint's files give it, the network's own where they have it not."""
    from safetensors import safe_open

    model = build(load_config(directory), dtype=torch.float32, attention="eager")
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    found: dict[str, str] = {}
    for path in sorted(directory.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {own: name for name in file.keys() if (own := _own_name(name)) is not None}  # noqa: SIM118 - no mapping
    return {found.get(name, name): shape for name, shape in shapes.items()}


def _own_name(stored: str) -> str | None:
    canonical = saved_name(stored)
    return _EMBEDDING if canonical == HEAD else None if canonical is None else native_name(canonical)


def _assigned(model: PI0ForConditionalGeneration, state: Mapping[str, Tensor]) -> PI0ForConditionalGeneration:
    """The network with `state` as its parameters, never allocated twice."""
    model.load_state_dict(dict(state), strict=True, assign=True)
    device = next(iter(state.values())).device
    # No checkpoint holds these, and a meta build leaves them empty: rotary and time frequencies (float32 in every dtype), factors, indices.
    for gemma in (model.model.vlm.language_model, model.model.dit):
        gemma.rotary_emb = GemmaRotaryEmbedding(gemma.config).to(device)
        gemma.embed_tokens.embed_scale = torch.tensor(gemma.embed_tokens.scalar_embed_scale, device=device)
    patches = model.model.vlm.vision_tower.embeddings
    patches.position_ids = torch.arange(patches.num_positions, device=device)[None]
    model.embed_action_time.sinusoid_embeds = PI0TimestepEmbeddings(model.config).to(device)
    if empty := [name for name, x in (*model.named_parameters(), *model.named_buffers()) if x.is_meta]:
        raise ContractError("tensors were left without values after the load", got=empty)
    return model.requires_grad_(False).eval()


def _without(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _without(value) if isinstance(value, Mapping) else value for key, value in given.items() if key not in _DROPPED}
