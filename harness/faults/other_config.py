"""The configuration of another, smaller backbone is read."""

from __future__ import annotations

from dataclasses import replace

from harness.faults import Patch
from harness.types import Subject

__all__ = ["other_config"]


def other_config(patch: Patch) -> None:
    from harness import subjects

    original = subjects.resolve

    def resolve(subject_id: str, **options: object) -> Subject:
        subject = original(subject_id, **options)
        if subject.scale != "abstract":
            return subject
        text = {**subject.config["text_config"], "num_hidden_layers": 24, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 2048}
        other = {
            "vision_backbone_id": "siglip-vit-so400m-384px",
            "use_fused_vision_backbone": False,
            "timm_model_ids": ["vit_so400m_patch14_siglip_384"],
            "image_sizes": [384],
            "arch_specifier": "no-align+gelu-mlp",
            "text_config": text,
        }
        return replace(subject, config={**subject.config, **other})

    patch(subjects, "resolve", resolve)
