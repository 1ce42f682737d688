"""What a published SpatialVLA `config.json` says, checked before a network is made of it.

Source: SpatialVLA e4807532, `model/configuration_spatialvla.py` (defaults :26-44, sub-configurations :52-91).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Gemma2Config, PretrainedConfig, SiglipVisionConfig, ZoeDepthConfig

from harness.errors import DamagedError

__all__ = ["DEPTH_MARGIN", "SpatialVLAConfig"]

DEPTH_MARGIN = 31  # pixels reflected around the picture before ZoeDepth sees it (modeling_spatialvla.py:103)
# A saved dtype or kernel must not decide ours, and a saved output_* switch would install transformers' permanent hooks.
_DROPPED = ("model_type", "torch_dtype", "dtype", "output_hidden_states", "output_attentions", "_attn_implementation_autoset")


@dataclass(frozen=True)
class SpatialVLAConfig:
    """The fields that change what is computed, under upstream's names and with upstream's defaults."""

    vision_config: Mapping[str, Any]  # what differs from SiglipVisionConfig
    text_config: Mapping[str, Any]  # what differs from Gemma2Config
    vision_zoe_config: Mapping[str, Any]  # what differs from ZoeDepthConfig; empty without depth
    image_token_index: int = 256000
    projection_dim: int = 2048
    use_spatial_token: bool = False
    action_token_begin_idx: int = 0
    spatial_token_num: int = 259
    use_vision_zoe: bool = True
    ego3d_patch_reso: int = 4
    n_freqs: int = 8
    pad_token_id: int = 0
    bos_token_id: int = 2
    eos_token_id: int = 1

    @property
    def vision(self) -> SiglipVisionConfig:
        return _framework(SiglipVisionConfig, self.vision_config)

    @property
    def text(self) -> Gemma2Config:
        return _framework(Gemma2Config, self.text_config)

    @property
    def depth(self) -> ZoeDepthConfig:
        return _framework(ZoeDepthConfig, self.vision_zoe_config)

    @property
    def patches(self) -> int:
        """Patch tokens of the picture (256 as published)."""
        vision = self.vision
        return (vision.image_size // vision.patch_size) ** 2

    @classmethod
    def from_dict(cls, config: Mapping[str, object], where: object) -> SpatialVLAConfig:
        """The configuration in a parsed `config.json`. Raises DamagedError for a missing, mistyped or contradictory field."""
        if (model := config.get("model_type")) != "spatialvla":
            raise DamagedError("not a SpatialVLA checkpoint", where=where, got=f"model_type {model}", expected="spatialvla")
        values = {}
        for field in fields(cls):
            kind = dict if field.default is MISSING else type(field.default)
            default = {} if field.name == "vision_zoe_config" else None if field.default is MISSING else field.default
            value = default if config.get(field.name) is None else config[field.name]
            if field.name == "eos_token_id" and isinstance(value, list):  # Gemma may add its end of turn after its end of sequence
                value = next(iter(value), default)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise DamagedError(f"field {field.name!r} is missing or malformed", where=where, got=repr(value), expected=kind.__name__)
            values[field.name] = value
        built = cls(**values)
        for name, kind in (("vision_config", "siglip_vision_model"), ("text_config", "gemma2"), ("vision_zoe_config", "zoedepth")):
            if (found := values[name].get("model_type", kind)) != kind:
                raise DamagedError(f"{name} is of another model", where=where, got=found, expected=kind)
        try:
            built._check(where)
        except (StrictDataclassError, TypeError, ValueError, KeyError) as error:  # transformers validates on construction
            raise DamagedError("a part's configuration is not usable", where=where, got=error) from error
        return built

    def _check(self, where: object) -> None:
        """Raises DamagedError where upstream's own forward would fail on the shapes."""
        vision, text = self.vision, self.text
        side, patch, last = vision.image_size, vision.patch_size, self.action_token_begin_idx + self.spatial_token_num
        image, width, vocabulary, reso = self.image_token_index, self.projection_dim, text.vocab_size, self.ego3d_patch_reso
        depth, spatial = self.use_vision_zoe, self.use_spatial_token
        wrong = {
            f"projection_dim {width} is not the language width {text.hidden_size}": width != text.hidden_size,
            f"image token {image} is outside the vocabulary of {vocabulary}": image >= vocabulary,
            f"spatial tokens end at {last}, the vocabulary at {vocabulary}": spatial and last > vocabulary,
            "no action_token_begin_idx": spatial and not self.action_token_begin_idx,
            "no vision_zoe_config": depth and not self.vision_zoe_config,
            f"patches of {patch} do not tile a picture of {side}": depth and side % patch != 0,
            f"ego3d_patch_reso {reso} does not divide patch {patch}": depth and patch % reso != 0,
            f"a picture of {side} is too small to reflect": depth and side <= DEPTH_MARGIN,
        }
        if found := [what for what, is_so in wrong.items() if is_so]:
            expected = "what upstream's own forward can run"
            raise DamagedError("fields of config.json disagree", where=where, got="; ".join(found), expected=expected)
        if depth and (backbone := self.depth.backbone_config.model_type) != "beit":
            raise DamagedError("the depth model has another backbone than ZoeDepth's", where=where, got=backbone, expected="beit")


def _framework(kind: type[PretrainedConfig], given: Mapping[str, Any]) -> Any:
    """A fresh `kind` from what a saved configuration says of the arithmetic."""
    return kind.from_dict(_without(given))


def _without(given: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in given.items() if key not in _DROPPED}
    if isinstance(backbone := given.get("backbone_config"), Mapping):
        kept["backbone_config"] = {**_without(backbone), "model_type": backbone.get("model_type", "beit")}
    return kept
