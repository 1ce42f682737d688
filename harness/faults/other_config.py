"""The configuration of another, smaller model is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.faults import Patch
from harness.types import Subject

__all__ = ["other_config"]

SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12, "intermediate_size": 2048}
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "openvla": {
        "vision_backbone_id": "siglip-vit-so400m-384px",
        "use_fused_vision_backbone": False,
        "timm_model_ids": ["vit_so400m_patch14_siglip_384"],
        "image_sizes": [384],
        "arch_specifier": "no-align+gelu-mlp",
        "text_config": SIZES,
    },
    "spatialvla": {"text_config": {**SIZES, "head_dim": 64}, "vision_config": {"image_size": 448}, "projection_dim": 768, "hidden_size": 768},
    "robovlms": {"vlm_config": {"latent_query_num": 32, "text_config": {"embed_dim": 1024, "layers": 12, "attention_heads": 16}}, "act_head": {"latent": 2}},
    "starvla": {
        "text_config": {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 2048, "head_dim": 128},
        "vision_config": {"out_hidden_size": 1024, "patch_size": 28},
    },
    "lerobot_pi0": {"paligemma_variant": "gemma_300m"},
    "openpi": {
        "image_keys": ["base_0_rgb", "left_wrist_0_rgb"],
        "max_token_len": 64,
        "action_horizon": 15,
        "image_resolution": [112, 112],
        **{name: {"width": 768, "depth": 12, "mlp_dim": 2048, "num_heads": 8, "num_kv_heads": 1, "head_dim": 96} for name in ("paligemma", "action_expert")},
    },
}


def other_config(patch: Patch) -> None:
    from harness import subjects

    original = subjects.resolve

    def resolve(subject_id: str, **options: object) -> Subject:
        subject = original(subject_id, **options)
        other = OTHERS.get(subject.family, {}) if subject.scale == "abstract" else {}
        return replace(subject, config=_merged(subject.config, other))

    patch(subjects, "resolve", resolve)


def _merged(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **{name: _merged(config.get(name) or {}, value) if isinstance(value, Mapping) else value for name, value in other.items()}}
