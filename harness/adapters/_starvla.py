"""StarVLA's network: Qwen2.5-VL or Qwen3-VL out of transformers' own classes, its stages called one by one.

Calling them separately (transformers 5.23, `Qwen2_5_VLModel.forward` and `Qwen3VLModel.forward` do the same) gives the
visual tokens an axis of samples, and lets everything that depends on values (grids, masks, positions) stay on the host, so
that shapes follow on the meta device and a GPU never waits. Axes: n samples, t positions, k visual tokens, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from harness.errors import ContractError, DamagedError, UnknownNameError

__all__ = ["FAMILIES", "QwenVL", "build_config"]


class _Family(NamedTuple):
    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]


FAMILIES = {
    "qwen2_5_vl": _Family(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": _Family(Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
# A saved dtype must not decide ours, and a saved output_* switch would install transformers' permanent hooks.
_DROPPED = {"dtype", "torch_dtype", "output_hidden_states", "output_attentions"}


def build_config(config: Mapping[str, Any], where: object) -> PreTrainedConfig:
    """transformers' configuration from a parsed `config.json`.

    Raises: DamagedError for another model type, for values transformers refuses, and for sliding windows, which no
    published checkpoint uses and the ready-made mask would silently widen.
    """
    if (kind := config.get("model_type")) not in FAMILIES:
        expected = " or ".join(FAMILIES)
        raise DamagedError("not a Qwen2.5-VL or Qwen3-VL checkpoint", where=where, got=f"model_type {kind}", expected=expected)
    kept = {name: _without(value) if isinstance(value, Mapping) else value for name, value in _without(config).items()}
    try:
        built = FAMILIES[kind].config.from_dict(kept)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise DamagedError("the configuration does not describe the model it names", where=where, got=error) from error
    if getattr(built.text_config, "use_sliding_window", False):
        raise DamagedError("sliding windows are not supported", where=where, got="use_sliding_window true", expected="false, as published")
    return built


def _without(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _DROPPED}


class _HostMask:
    """A mask that stays on the host although transformers moves it: indexing by it needs its values."""

    def __init__(self, mask: Bool[Tensor, "n t"]) -> None:
        self.mask = mask

    def to(self, device: object) -> Tensor:
        return self.mask


@final
class QwenVL(nn.Module):
    """The whole network in evaluation mode. Never call `.to(dtype)`: it would round the rotary frequencies.

    `vlm` is transformers' model; `projector` hands on each sample's visual tokens unchanged, where they can be observed.
    """

    def __init__(self, config: PreTrainedConfig, *, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        if attention not in (known := ("eager", "sdpa")):
            raise UnknownNameError("attention kernel", attention, known, where="StarVLA")
        kind = FAMILIES[config.model_type].model
        self.vlm = kind._from_config(config, attn_implementation=attention, dtype=dtype)
        self.projector = nn.Identity()
        kernels = {part.config._attn_implementation for part in self.vlm.modules() if hasattr(part, "config")}
        if type(self.vlm) is not kind or kernels != {attention}:
            raise ContractError(f"{kind.__name__} changed its attention kernel", got=kernels, expected=attention)
        self.requires_grad_(False).eval()

    @property
    def config(self) -> PreTrainedConfig:
        return self.vlm.config

    @property
    def language_model(self) -> PreTrainedModel:
        return self.vlm.model.language_model

    def forward(self, **inputs: Tensor) -> Float[Tensor, "n t d"]:
        """States after the final norm; `inputs` as for `prefix`. No logits: no feature needs them."""
        return self.language_model(**self.prefix(**inputs))[0]

    def prefix(
        self,
        *,
        input_ids: Int[Tensor, "n t"],
        attention_mask: Int[Tensor, "n t"],
        position_ids: Int[Tensor, "3 n t"],
        image_mask: Bool[Tensor, "n t"],
        pixel_values: Float[Tensor, "patches values"],
        image_grid_thw: Int[Tensor, "images 3"],
    ) -> dict[str, Any]:
        """The language model's keyword inputs; `image_mask` and `image_grid_thw` are on the host."""
        features, deepstack = self._see(pixel_values, image_grid_thw)
        counts = image_mask.sum(1, keepdim=True)
        valid = torch.arange(int(counts.max())) < counts  # (n, k), on the host; samples may differ in their number of visual tokens
        tokens = features.new_zeros(*valid.shape, features.shape[-1])
        tokens[valid] = features
        embedding = self.language_model.embed_tokens(input_ids).clone()
        embedding[image_mask] = self.projector(tokens)[valid].to(embedding.dtype)
        length = input_ids.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool, device=embedding.device).tril() & attention_mask[:, None, None, :].bool()
        # A ready 4-D mask: transformers makes its own by looking at values, which tensors on the meta device lack.
        bias = torch.where(allowed, embedding.new_zeros(()), torch.finfo(embedding.dtype).min)
        inputs = {"inputs_embeds": embedding, "attention_mask": bias, "position_ids": position_ids, "use_cache": False}
        if deepstack:
            inputs |= {"visual_pos_masks": _HostMask(image_mask), "deepstack_visual_embeds": deepstack}
        return inputs

    def _see(self, pixels: Tensor, grid: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Visual tokens of all images in one sequence (., d), and what deepstack adds after the first blocks, each like them."""
        visual = self.vlm.model.visual
        made = {"position_ids": get_vision_position_ids(grid, visual.spatial_merge_size).to(pixels.device)}
        if hasattr(visual, "pos_embed"):
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=visual.num_grid_per_side,
                mode=visual.interpolation_mode,
                align_corners=visual.interpolation_align_corners,
                spatial_merge_size=visual.spatial_merge_size,
            )
            made |= {"interp_indices": indices.to(pixels.device), "interp_weights": weights.to(pixels.device)}
        output = visual(pixels, grid_thw=grid, **made)
        return output.pooler_output, list(getattr(output, "deepstack_features", None) or [])
