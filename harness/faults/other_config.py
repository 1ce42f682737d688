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
        return replace(subject, config={**subject.config, "text_config": text, "image_sizes": [384, 384]})

    patch(subjects, "resolve", resolve)
