"""The configurations of a π0 that a layout's own code reads, built from sizes and facts where the source did not bring its own.

Sources: lerobot@7427f318 and @71eff183f `configuration_pi0.py`; transformers 5.23.0 `configuration_pi0.py`, `processing_pi0.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.converters._pi0_facts import named
from harness.converters._pi0_files import CAMERAS
from harness.converters._pi0_source import Checkpoint
from harness.converters._pi0_stats import processor
from harness.layouts.pi0 import EMBEDDING

__all__ = ["lerobot_config", "native_config", "native_processor", "sizes_record", "text"]


def text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def lerobot_config(source: Checkpoint, *, old: bool) -> dict[str, Any]:
    """lerobot's `config.json`, of the old age or the new."""
    sizes, facts = source.sizes, source.facts
    padded = {"state": sizes.state or sizes.action, "actions": sizes.action}
    state, action = (len(facts.stats[kind]["mean"]) if facts.stats else width for kind, width in padded.items())
    picture = {"type": "VISUAL", "shape": [3, facts.image_size, facts.image_size]}
    cameras = {f"observation.images.{name}": picture for name in named(facts.cameras)}
    norm = "QUANTILES" if sizes.adaptive else "MEAN_STD"
    config = {
        "type": "pi05" if sizes.adaptive else "pi0",
        "n_obs_steps": 1,
        "input_features": {**cameras, "observation.state": {"type": "STATE", "shape": [state]}},
        "output_features": {"action": {"type": "ACTION", "shape": [action]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": norm, "ACTION": norm},
        "chunk_size": facts.chunk,
        "n_action_steps": facts.chunk,
        "max_state_dim": sizes.state or sizes.action,
        "max_action_dim": sizes.action,
        "empty_cameras": 0,
        "tokenizer_max_length": facts.max_token_len,
    }
    side = [facts.image_size, facts.image_size]
    if old:
        return config | {
            "resize_imgs_with_padding": side,
            "adapt_to_pi_aloha": False,
            "use_delta_joint_actions_aloha": False,
            "proj_width": sizes.expert_width,
            "num_steps": facts.num_steps,
            "use_cache": True,
            "attention_implementation": "eager",
        }
    return config | {
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": source.tensors[EMBEDDING].dtype.name,
        "num_inference_steps": facts.num_steps,
        "image_resolution": side,
        "time_sampling_beta_alpha": 1.5,
        "time_sampling_beta_beta": 1.0,
        "time_sampling_scale": 0.999,
        "time_sampling_offset": 0.001,
        "min_period": 4e-3,
        "max_period": 4.0,
    }


def native_config(source: Checkpoint) -> dict[str, Any]:
    """The `config.json` of transformers' `PI0ForConditionalGeneration`; what it leaves out has that library's default."""
    sizes, facts = source.sizes, source.facts
    gemma = {
        "model_type": "gemma",
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads.language,
        "num_key_value_heads": sizes.heads.kv,
        "head_dim": sizes.head,
        "vocab_size": sizes.vocabulary,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": sizes.vision_width,
        "intermediate_size": sizes.vision_mlp,
        "num_hidden_layers": sizes.vision_depth,
        "num_attention_heads": sizes.heads.vision,
        "patch_size": sizes.patch,
        "image_size": facts.image_size,
        "vision_use_head": False,
    }
    return {
        "architectures": ["PI0ForConditionalGeneration"],
        "model_type": "pi0",
        "vlm_config": {
            "model_type": "paligemma",
            "text_config": {**gemma, "hidden_size": sizes.width, "intermediate_size": sizes.mlp},
            "vision_config": vision,
            "projection_dim": sizes.width,
            "image_token_index": sizes.vocabulary,
        },
        "dit_config": {**gemma, "hidden_size": sizes.expert_width, "intermediate_size": sizes.expert_mlp},
        "chunk_size": facts.chunk,
        "max_state_dim": sizes.state,
        "max_action_dim": sizes.action,
        "num_inference_steps": facts.num_steps,
        "dtype": source.tensors[EMBEDDING].dtype.name,
    }


def native_processor(source: Checkpoint) -> dict[str, Any]:
    """The `processor_config.json` of transformers' `PI0Processor`: pictures, prompt length, and statistics where there are any."""
    sizes, facts = source.sizes, source.facts
    side = facts.image_size
    pictures = {
        "image_processor_type": "PI0ImageProcessor",
        "size": {"max_height": side, "max_width": side},
        "pad_size": {"height": side, "width": side},
        "image_seq_length": sizes.positions,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    prompt = {"padding": "max_length", "max_length": facts.max_token_len, "padding_side": "right", "return_tensors": "pt"}
    lengths = {"max_state_dim": sizes.state, "chunk_size": facts.chunk}
    return {"processor_class": "PI0Processor", "image_processor": pictures, "text_kwargs": prompt, **lengths, **processor(facts.stats)}


def sizes_record(source: Checkpoint, target: str) -> dict[str, Any]:
    """What the target's own files cannot tell, under the names that parity packs of its layout have."""
    sizes, facts = source.sizes, source.facts
    heads = {"depth": sizes.depth, "num_heads": sizes.heads.language, "num_kv_heads": sizes.heads.kv, "head_dim": sizes.head}
    vlm, expert = ({"width": width, "mlp_dim": mlp, **heads} for width, mlp in ((sizes.width, sizes.mlp), (sizes.expert_width, sizes.expert_mlp)))
    if target != "openpi":
        eye = {
            "hidden_size": sizes.vision_width,
            "num_hidden_layers": sizes.vision_depth,
            "num_attention_heads": sizes.heads.vision,
            "intermediate_size": sizes.vision_mlp,
            "patch_size": sizes.patch,
            "image_size": facts.image_size,
        }
        keys = [f"observation.images.{name}" for name in named(facts.cameras)]
        lengths = {"text_len": facts.max_token_len, "chunk": facts.chunk_size, "maxdim": sizes.action, "steps": facts.num_steps}
        return {"vocab": sizes.vocabulary, "vlm": vlm, "exp": expert, "vit": eye, "image_keys": keys, **lengths}
    eye = {
        "width": sizes.vision_width,
        "depth": sizes.vision_depth,
        "mlp_dim": sizes.vision_mlp,
        "num_heads": sizes.heads.vision,
        "patch_size": [sizes.patch, sizes.patch],
        "num_classes": sizes.width,
    }
    named_so = [name for name in CAMERAS if name in facts.cameras]
    return {
        "pi05": sizes.adaptive,
        "paligemma": vlm,
        "action_expert": expert,
        "vocab_size": sizes.vocabulary,
        "siglip": eye,
        "image_resolution": [facts.image_size, facts.image_size],
        "image_keys": named_so if len(named_so) == len(facts.cameras) else list(CAMERAS[: len(facts.cameras)]),
        "tokens_per_image": sizes.positions,
        "action_dim": sizes.action,
        "action_horizon": facts.chunk_size,
        "max_token_len": facts.max_token_len,
        "num_steps": facts.num_steps,
    }
