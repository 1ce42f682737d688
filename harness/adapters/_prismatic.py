"""OpenVLA's network (Prismatic): one or two ViT towers, an MLP projector and a Llama, out of transformers' own classes.

Source: openvla c8f03f48, `prismatic/extern/hf/modeling_prismatic.py` (MODEL) and `configuration_prismatic.py` (CONF).
Axes: b batch, c channels, p patches, v vision width, t text tokens, l merged tokens (p + t), d language width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, final

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, LlamaConfig, LlamaForCausalLM
from transformers import PretrainedConfig, PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from harness.errors import ContractError, DamagedError, UnknownNameError, UsageError

__all__ = ["Output", "Prismatic", "PrismaticConfig", "Tower", "TowerConfig", "attention_allowed"]
Mask = Int[Tensor, "b l"] | Bool[Tensor, "b l"]  # true where there is a token, false on padding
_SIZES = ("image_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
_PROJECTORS = ("fused-gelu-mlp", "gelu-mlp", "linear")


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one ViT; `kind` is "dinov2" (four registers, LayerScale) or "siglip"; image side and patch in pixels."""

    timm_id: str
    kind: str
    image_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float  # timm's hidden width is int(embed_dim * mlp_ratio): 4304 of 1152 for SigLIP so400m
    patch: int = 14

    @property
    def patches(self) -> int:
        """Patch tokens of one image; what `patch` leaves over of a side is cut off (384 pixels give 27 x 27)."""
        return (self.image_size // self.patch) ** 2


_DINO = TowerConfig("vit_large_patch14_reg4_dinov2.lvd142m", "dinov2", 224, 1024, 24, 16, 4.0)
_SIGLIP = TowerConfig("vit_so400m_patch14_siglip_224", "siglip", 224, 1152, 27, 16, 3.7362)
_SIGLIP_384 = replace(_SIGLIP, timm_id="vit_so400m_patch14_siglip_384", image_size=384)
_TOWERS = {tower.timm_id: tower for tower in (_DINO, _SIGLIP, _SIGLIP_384)}
# CONF:17-38 without the CLIP and ImageNet backbones, which no published OpenVLA uses.
_BACKBONES = {
    "dinosiglip-vit-so-224px": (_DINO, _SIGLIP),
    "dinosiglip-vit-so-384px": (replace(_DINO, image_size=384), _SIGLIP_384),
    "siglip-vit-so400m": (_SIGLIP,),
    "siglip-vit-so400m-384px": (_SIGLIP_384,),
    "dinov2-vit-l": (_DINO,),
}


@dataclass(frozen=True)
class PrismaticConfig:
    """What a published `config.json` says, with the fields it may omit filled in (CONF:76-140)."""

    vision_backbone_id: str
    towers: tuple[TowerConfig, ...]  # one, or DINOv2 then SigLIP when fused
    projector: str  # "fused-gelu-mlp" (three layers), "gelu-mlp" (two) or "linear"
    text_config: Mapping[str, object]
    norm_stats: Mapping[str, Any] = field(default_factory=dict)
    image_resize_strategy: str = "letterbox"
    pad_token_id: int = 32000
    pad_to_multiple_of: int = 64
    n_action_bins: int = 256
    llm_max_length: int = 2048

    @property
    def vision_width(self) -> int:
        """Width of a patch feature: the towers' widths added up (2176 as published)."""
        return sum(tower.embed_dim for tower in self.towers)

    @cached_property
    def vocabulary(self) -> int:
        """Token ids of the language model, the padding to `pad_to_multiple_of` and the action bins among them."""
        return self.text.vocab_size

    @property
    def text(self) -> LlamaConfig:
        """A fresh LlamaConfig: `text_config` holds differences only, the rest are its defaults (rms_norm_eps 1e-6)."""
        # The saved dtype must not decide ours, and a saved output_* switch would install transformers' permanent hooks.
        dropped = {"model_type", "torch_dtype", "dtype", "output_hidden_states", "output_attentions"}
        return LlamaConfig(**{key: value for key, value in self.text_config.items() if key not in dropped})

    @classmethod
    def from_dict(cls, config: Mapping[str, object], where: object) -> PrismaticConfig:
        """The configuration in a parsed `config.json`; what the file says wins over the backbone's table (CONF:126).

        Raises: DamagedError for a missing, mistyped or contradictory field; UnknownNameError for a name nobody knows.
        """
        if (model := _field(config, "model_type", str, where)) not in ("openvla", "prismatic"):
            raise DamagedError("not an OpenVLA checkpoint", where=where, got=f"model_type {model}", expected="openvla or prismatic")
        backbone = _known("vision_backbone_id", _field(config, "vision_backbone_id", str, where), _BACKBONES, where)
        fused = _field(config, "use_fused_vision_backbone", bool, where, len(_BACKBONES[backbone]) == 2)
        # The trainer reads this suffix (prismatic/models/vlms/prismatic.py:59-66), MODEL:133 the fused flag; a strict load sees to it.
        arch = _field(config, "arch_specifier", str, where, "fused-gelu-mlp" if fused else "gelu-mlp")
        text = _field(config, "text_config", dict, where)
        _known("text_config.model_type", str(text.get("model_type", "llama")), ("llama",), where)
        built = cls(
            vision_backbone_id=backbone,
            towers=_towers(config, _BACKBONES[backbone], fused, where),
            projector=_known("arch_specifier", next(filter(arch.endswith, _PROJECTORS), arch), _PROJECTORS, where),
            text_config=text,
            norm_stats=_field(config, "norm_stats", dict, where, {}),
            **{f.name: _field(config, f.name, type(f.default), where, f.default) for f in fields(cls) if f.default is not MISSING},
        )
        try:
            _ = built.text  # transformers validates on construction
        except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
            raise DamagedError("text_config is no Llama configuration", where=where, got=error) from error
        return built


def _field(config: Mapping[str, object], name: str, kind: type, where: object, default: object = None) -> Any:
    """`config[name]`, or `default` where absent or null; DamagedError when that is not a `kind`."""
    value = default if config.get(name) is None else config[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DamagedError(f"field {name!r} is missing or malformed", where=where, got=repr(value), expected=kind.__name__)
    return value


def _known(kind: str, name: str, known: Iterable[str], where: object) -> str:
    if name not in known:
        raise UnknownNameError(kind, name, known, where=where)
    return name


def _towers(config: Mapping[str, object], table: tuple[TowerConfig, ...], fused: bool, where: object) -> tuple[TowerConfig, ...]:
    """The towers of `timm_model_ids`, shrunken by `timm_model_overrides` (the parity packs' extension of the format)."""
    ids = _field(config, "timm_model_ids", list, where, [tower.timm_id for tower in table])
    sizes = _field(config, "image_sizes", list, where, [tower.image_size for tower in table])
    acts = _field(config, "timm_override_act_layers", list, where, [None] * len(ids))
    changes = _field(config, "timm_model_overrides", list, where, [{}] * len(ids))
    even = all(len(column) == 1 + fused for column in (ids, sizes, acts, changes)) and sizes == sizes[:1] * len(sizes)
    if not even or any(acts) or not all(isinstance(change, dict) for change in changes):
        expected = f"{1 + fused} of each (use_fused_vision_backbone), one image size, no act layers of their own"
        raise DamagedError("fields of the vision towers disagree", where=where, got=(ids, sizes, acts, changes), expected=expected)
    towers = []
    for timm_id, size, change in zip(ids, sizes, changes, strict=True):
        base, change = _TOWERS[_known("timm_model_ids", str(timm_id), _TOWERS, where)], {**change, "image_size": size}
        names = (_known("timm_model_overrides", name, _SIZES, where) for name in change)
        tower = replace(base, **{name: _field(change, name, type(getattr(base, name)), where) for name in names})
        # Taken is the second-to-last block, so one is too few; Dinov2WithRegistersConfig knows whole ratios only.
        whole = tower.kind == "siglip" or tower.mlp_ratio.is_integer()
        if not whole or min(tower.depth - 1, tower.patches, tower.num_heads) < 1 or tower.embed_dim % tower.num_heads:
            raise DamagedError("impossible vision tower", where=where, got=tower, expected="2 blocks, a width its heads divide")
        towers.append(tower)
    return tuple(towers)


class Output(NamedTuple):
    """One forward pass; along `l`, position 0 is BOS, `1 .. p` the patches and the rest the text after BOS."""

    patch_features: Float[Tensor, "b p v"]
    projected_patches: Float[Tensor, "b p d"]
    embedding: Float[Tensor, "b l d"]
    attention_mask: Mask
    last_hidden_state: Float[Tensor, "b l d"]  # after the final norm
    logits: Float[Tensor, "b l vocab"] | None


def attention_allowed(mask: Mask) -> Bool[Tensor, "b 1 l l"]:
    """True where query (axis 2) may look at key (axis 3): the key is not in the future and is no padding."""
    causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    return causal & mask[:, None, None, :].bool()


def _model(kind: type[PreTrainedModel], config: PretrainedConfig, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """A `kind` that runs the attention kernel asked for; ContractError if transformers settled on another one."""
    module = kind._from_config(config, attn_implementation=attention, dtype=dtype)
    kernels = {part.config._attn_implementation for part in module.modules() if hasattr(part, "config")}
    if type(module) is not kind or kernels != {attention}:
        raise ContractError(f"{kind.__name__} changed its attention kernel", got=kernels, expected=attention)
    return module


@final
class Tower(nn.Module):
    """One ViT: `model`, its `blocks` in order, and `prefix`, the number of tokens before the first patch."""

    def __init__(self, config: TowerConfig, *, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        # timm drops act_layer=None, so both towers keep its default, the erf GELU; transformers gives SigLIP the tanh one.
        sizes: dict[str, Any] = dict(image_size=config.image_size, patch_size=config.patch, hidden_size=config.embed_dim)
        sizes |= dict(num_hidden_layers=config.depth, num_attention_heads=config.num_heads, hidden_act="gelu", layer_norm_eps=1e-6)
        if config.kind == "dinov2":
            vit = Dinov2WithRegistersConfig(**sizes, mlp_ratio=int(config.mlp_ratio), num_register_tokens=4)
            self.model, self.prefix = _model(Dinov2WithRegistersModel, vit, attention, dtype), 1 + 4  # class, registers
        else:
            vit = SiglipVisionConfig(**sizes, intermediate_size=int(config.embed_dim * config.mlp_ratio), vision_use_head=False)
            self.model, self.prefix = _model(SiglipVisionModel, vit, attention, dtype), 0

    @property
    def blocks(self) -> nn.ModuleList:
        """In order, with the last one, which is loaded but never runs."""
        return self.model.encoder.layer if self.prefix else self.model.encoder.layers

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p width"]:
        """Patch tokens after the second-to-last block, without the ViT's final norm (MODEL:85-87)."""
        x = self.model.embeddings(pixels)
        for block in self.blocks[:-1]:
            x = block(x, None)
        return x[:, self.prefix :]


@final
class Prismatic(nn.Module):
    """The whole network, frozen and in eval mode. Never call `.to(dtype)`: it would round the rotary frequencies."""

    def __init__(self, config: PrismaticConfig, *, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        _known("attention kernel", attention, ("eager", "sdpa"), "OpenVLA")
        self.config = config
        towers = (Tower(tower, attention=attention, dtype=dtype) for tower in config.towers)
        self.vision = nn.ModuleDict(zip(("featurizer", "fused_featurizer"), towers, strict=False))
        self.language_model = _model(LlamaForCausalLM, config.text, attention, dtype)
        # MODEL:133-144: all layers as wide as the language model, but for the first of the fused kind.
        first, width = config.vision_width, self.language_model.config.hidden_size
        widths = {"linear": [first, width], "gelu-mlp": [first, width, width], "fused-gelu-mlp": [first, 4 * first, width, width]}
        self.projector = nn.Sequential()
        for i, (before, after) in enumerate(pairwise(widths[config.projector])):
            if i:
                self.projector.add_module(f"act_fn{i}", nn.GELU())
            self.projector.add_module(f"fc{i + 1}", nn.Linear(before, after, dtype=dtype))
        self.requires_grad_(False).eval()

    def forward(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Mask, pixel_values: Float[Tensor, "b c h w"], *, with_logits: bool = True
    ) -> Output:
        """Every stage of [BOS][patches][text], causal, at positions 0 .. l-1 (MODEL:362-415). Raises: UsageError for unfit shapes."""
        side, channels = self.config.towers[0].image_size, 3 * len(self.vision)
        if pixel_values.shape != (len(input_ids), channels, side, side) or attention_mask.shape != input_ids.shape:
            got = [tuple(x.shape) for x in (input_ids, attention_mask, pixel_values)]
            raise UsageError("model inputs do not fit", got=got, expected=f"(b, t), (b, t), (b, {channels}, {side}, {side})")
        language = self.language_model.model
        if language.rotary_emb.inv_freq.dtype != torch.float32:
            raise ContractError("the rotary frequencies were cast", got="a .to(dtype)", expected="float32 in every dtype", next="load with dtype=")
        features = torch.cat([tower(x) for tower, x in zip(self.vision.values(), pixel_values.split(3, dim=1), strict=True)], dim=-1)
        projected, text = self.projector(features), language.embed_tokens(input_ids)
        embedding = torch.cat([text[:, :1], projected, text[:, 1:]], dim=1)
        mask = torch.cat([attention_mask[:, :1], attention_mask.new_ones(projected.shape[:2]), attention_mask[:, 1:]], dim=1)
        # A ready 4-D mask: transformers makes its own by looking at values, which tensors on the meta device lack.
        bias = torch.where(attention_allowed(mask), embedding.new_zeros(()), torch.finfo(embedding.dtype).min)
        positions = torch.arange(mask.shape[1], device=mask.device)[None]
        hidden = language(inputs_embeds=embedding, attention_mask=bias, position_ids=positions, use_cache=False)[0]
        return Output(features, projected, embedding, mask, hidden, self.language_model.lm_head(hidden) if with_logits else None)
