"""SpatialVLA's network: SigLIP, ZoeDepth, a 3-D position embedding, a projector and Gemma2, of transformers' own classes.

Source: SpatialVLA e4807532, `model/modeling_spatialvla.py` (MODEL) and `model/modeling_gemma2.py` (GEMMA).
Axes: b batch, p patches, v vision width, s points of a patch times three, l tokens, d language width, h w pixels.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import Gemma2ForCausalLM, PretrainedConfig, PreTrainedModel, SiglipVisionModel, ZoeDepthForDepthEstimation
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from harness.adapters._spatialvla_config import DEPTH_MARGIN, SpatialVLAConfig
from harness.errors import ContractError, UsageError

__all__ = ["Geometry", "Output", "SpatialVLA", "allowed", "normalised", "windowed"]

DEPTH_SIDE = 384  # pixels of the square picture that ZoeDepth gets, whatever the model's own size (MODEL:106)
Pixels = Float[Tensor, "b 3 h w"]  # in [0, 1]: normalisation happens inside, once
Intrinsic = Float[Tensor, "3 3"] | Float[Tensor, "b 3 3"]  # in pixels of the model's picture; one serves a batch
Mask = Int[Tensor, "b l"] | Bool[Tensor, "b l"]  # true where there is a token, false on padding
Allowed = Bool[Tensor, "b 1 l l"]  # true where query (axis 2) may look at key (axis 3)


class Geometry(NamedTuple):
    """What the depth branch makes of a picture: its own input, the depth in metres, points of each patch, their embedding."""

    zoe_pixel_values: Float[Tensor, "b 3 384 384"]
    zoe_depth: Float[Tensor, "b h w"]
    ego3d_xyz: Float[Tensor, "b p s"]
    ego3d_embedding: Float[Tensor, "b p v"]


class Image(NamedTuple):
    """One picture on its way to the language model; `geometry` is None in a model without depth."""

    vision_features: Float[Tensor, "b p v"]  # after the tower's last norm
    geometry: Geometry | None
    patch_features: Float[Tensor, "b p v"]
    projector_output: Float[Tensor, "b p d"]


class Output(NamedTuple):
    """One forward; `inputs_embeds` is before, `embedding` after the multiplication by the root of the width."""

    image: Image
    projected_patches: Float[Tensor, "b p d"]
    inputs_embeds: Float[Tensor, "b l d"]
    embedding: Float[Tensor, "b l d"]
    position_ids: Int[Tensor, "1 l"]
    attention_allowed: Allowed  # even layers see a window of it
    attention_windowed: Allowed
    logits: Float[Tensor, "b l vocab"]


def normalised(pixels: Pixels) -> Pixels:
    """[0, 1] to [-1, 1], for SigLIP and for ZoeDepth alike (MODEL:36-37)."""
    return (pixels - 0.5) / 0.5


def allowed(mask: Mask, prompt: int) -> Allowed:
    """The first `prompt` positions all see each other, later ones what came before them; nobody sees padding (MODEL:291-303)."""
    at = torch.arange(mask.shape[1], device=mask.device)
    return mask.bool()[:, None, None, :] & ((at < prompt) | (at <= at[:, None]))


def windowed(allowed: Allowed, window: int) -> Allowed:
    """Without keys `window` or more positions back; keys ahead stay (GEMMA:466-471)."""
    return allowed & torch.ones_like(allowed).tril(-window).logical_not()


@final
class Ego3D(nn.Module):
    """Points of a patch in camera coordinates to a vector: sines and cosines of octaves, then an MLP (MODEL:41-97)."""

    def __init__(self, points: int, width: int, octaves: int) -> None:
        super().__init__()
        self.octaves = octaves
        self.position_embedding_head = nn.Sequential(
            nn.Linear(3 * points * (2 * octaves + 1), width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, xyz: Float[Tensor, "b p s"]) -> Float[Tensor, "b p v"]:
        dtype = self.position_embedding_head[0].weight.dtype
        centre = xyz.new_tensor([0.0, 0.0, 2.0]).repeat(xyz.shape[-1] // 3)
        x = ((xyz - centre) / 2)[..., None].to(dtype)  # upstream rounds here, so that high octaves of half precision are coarse
        phase = x * 2 ** torch.arange(self.octaves, device=x.device, dtype=dtype)
        return self.position_embedding_head(torch.cat([x, phase.sin(), phase.cos()], dim=-1).flatten(-2))


@final
class Projector(nn.Module):
    """One linear map into the language model's width."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)

    def forward(self, features: Float[Tensor, "b p v"]) -> Float[Tensor, "b p d"]:
        return self.linear(features)


class _FirstHead(TorchFunctionMode):
    """Within: a number asked of a tensor without values is 0, so that ZoeDepth's router settles on its first head."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return 0 if func is Tensor.item else func(*args, **(kwargs or {}))


@final
class SpatialVLA(nn.Module):
    """The whole network, frozen and in eval mode. Never call `.to(dtype)`: it would round the rotary frequencies.

    ZoeDepth with two heads chooses one by a vote over its batch (transformers 5.23 modeling_zoedepth.py:1062), which would
    couple the samples. Here it always sees one sample at a time, so no feature depends on a batch mate.
    """

    def __init__(self, config: SpatialVLAConfig, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        vision, text = config.vision, config.text
        self.vision_tower = _eager(SiglipVisionModel, vision, dtype)
        self.multi_modal_projector = Projector(vision.hidden_size, config.projection_dim).to(dtype)
        self.language_model = _eager(Gemma2ForCausalLM, text, dtype)
        if config.use_vision_zoe:
            self.vision_zoe_model = _eager(ZoeDepthForDepthEstimation, config.depth, dtype)
            # BEiT gives its maps through hooks that transformers installs on the first forward: here, before anyone counts hooks.
            maybe_install_capturing_hooks(self.vision_zoe_model.backbone.beit)
            self.position_embedding_3d = Ego3D(config.ego3d_patch_reso**2, vision.hidden_size, config.n_freqs).to(dtype)
        if config.use_spatial_token:
            self.spatial_embed_tokens = nn.Embedding(config.spatial_token_num, text.hidden_size, dtype=dtype)
        self.requires_grad_(False).eval()

    def forward(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Mask,
        pixel_values: Pixels,
        intrinsic: Intrinsic,
        *,
        image: Image | None = None,
        prompt: int | None = None,
    ) -> Output:
        """Every stage; the first `prompt` tokens (all, by default) see each other, those after them are causal.

        `image` is an earlier `see(pixel_values, intrinsic)`. Raises UsageError for inputs that do not fit each other.
        """
        side, rows = self.vision_tower.config.image_size, len(input_ids)
        fits = pixel_values.shape == (rows, 3, side, side) and attention_mask.shape == input_ids.shape
        if not fits or intrinsic.shape not in ((3, 3), (rows, 3, 3)):
            got = [tuple(x.shape) for x in (input_ids, attention_mask, pixel_values, intrinsic)]
            raise UsageError("model inputs do not fit", got=got, expected=f"(b, l), (b, l), (b, 3, {side}, {side}), (3, 3) or (b, 3, 3)")
        if self.language_model.model.rotary_emb.inv_freq.dtype != torch.float32:
            got = "a .to(dtype)"
            raise ContractError("the rotary frequencies were cast", got=got, expected="float32 in every dtype", next="load with dtype=")
        image = self.see(pixel_values, intrinsic) if image is None else image
        root = self.language_model.config.hidden_size**0.5
        projected = image.projector_output / root
        text, positions = self.embed(input_ids), self.positions(input_ids)
        prompt = input_ids.shape[1] if prompt is None else prompt
        image_at = (input_ids == self.config.image_token_index) & (positions <= prompt)  # a predicted image token is a word
        merged = text.masked_scatter(image_at[..., None], projected.to(text.dtype))
        embedding = merged * merged.new_tensor(root)  # GEMMA:741: of every token, which undoes the division for patches
        full = allowed(attention_mask, prompt)
        sliding = windowed(full, self.language_model.config.sliding_window)
        logits = self.language_model(**self.attend(embedding, full, sliding, positions)).logits
        return Output(image, projected, merged, embedding, positions, full, sliding, logits)

    def attend(self, embedding: Float[Tensor, "b l d"], full: Allowed, sliding: Allowed, positions: Int[Tensor, "1 l"]) -> dict[str, Any]:
        """Keyword inputs of the language model, with ready masks for its full and its sliding layers.

        transformers' own masks are causal, and made by looking at values, which tensors on the meta device lack.
        """
        masks = {"full_attention": full, "sliding_attention": sliding}
        bias = {kind: torch.where(kept, embedding.new_zeros(()), torch.finfo(embedding.dtype).min) for kind, kept in masks.items()}
        return {"inputs_embeds": embedding, "attention_mask": bias, "position_ids": positions, "use_cache": False}

    def see(self, pixels: Pixels, intrinsic: Intrinsic) -> Image:
        """Patches with their places in space (MODEL:308-333); the language model divides by the root of its width itself."""
        vision = self.vision_tower(normalised(pixels)).last_hidden_state
        geometry = self.locate(pixels, intrinsic) if self.config.use_vision_zoe else None
        features = vision if geometry is None else vision + geometry.ego3d_embedding
        return Image(vision, geometry, features, self.multi_modal_projector(features))

    def locate(self, pixels: Pixels, intrinsic: Intrinsic) -> Geometry:
        """Depth of the reflected picture, back-projected at `ego3d_patch_reso` squared points of every patch."""
        margin, size = DEPTH_MARGIN, pixels.shape[-1]
        reflected = functional.pad(pixels, (margin,) * 4, mode="reflect")
        seen = normalised(functional.interpolate(reflected, size=(DEPTH_SIDE, DEPTH_SIDE), mode="bicubic", align_corners=True))
        depth = self.depths(seen)
        whole = functional.interpolate(depth[:, None], size=(size + 2 * margin,) * 2, mode="bicubic", align_corners=True)
        xyz = self.points(whole[..., margin:-margin, margin:-margin], intrinsic)
        return Geometry(seen, depth, xyz, self.position_embedding_3d(xyz))

    def depths(self, seen: Float[Tensor, "b 3 384 384"]) -> Float[Tensor, "b h w"]:
        """Depth in metres, one sample at a time: see the class."""
        with _FirstHead() if seen.is_meta else nullcontext():
            return torch.cat([self.vision_zoe_model(pixel_values=one).predicted_depth for one in seen.split(1)])

    def points(self, depth: Float[Tensor, "b 1 h w"], intrinsic: Intrinsic) -> Float[Tensor, "b p s"]:
        """Camera coordinates (float32) of the sampled points of each patch: rays through pixel centres, times depth (MODEL:194-224)."""
        vision, reso = self.vision_tower.config, self.config.ego3d_patch_reso
        grid, step = vision.image_size // vision.patch_size, vision.patch_size // reso
        axis = torch.arange(0, vision.image_size, step, device=depth.device).to(depth.dtype) + vision.patch_size / reso / 2
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        rays = torch.linalg.inv(intrinsic.float()) @ torch.stack([x, y, torch.ones_like(x)]).flatten(1).float()
        pooled = functional.interpolate(depth, size=(grid * reso,) * 2, mode="area").flatten(2)
        return (rays * pooled).unflatten(-1, (grid, reso, grid, reso)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def embed(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Unscaled rows of the vocabulary; those of action tokens come from a table of their own (MODEL:363-365)."""
        rows = functional.embedding(ids, self.language_model.model.embed_tokens.weight)
        if not self.config.use_spatial_token:
            return rows
        index = ids - self.config.action_token_begin_idx
        spatial = (index >= 0) & (index < self.config.spatial_token_num)
        return torch.where(spatial[..., None], self.spatial_embed_tokens(index.clamp(0, self.config.spatial_token_num - 1)), rows)

    def positions(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "1 l"]:
        """1, 2, 3 ... whatever is padded (MODEL:372)."""
        return torch.arange(ids.shape[1], device=ids.device)[None] + 1


def _eager(kind: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A `kind` that runs eager attention in all its parts; ContractError if transformers settled on another kernel."""
    module = kind._from_config(config, attn_implementation="eager", dtype=dtype)
    kernels = {part.config._attn_implementation for part in module.modules() if hasattr(part, "config")}
    if type(module) is not kind or kernels != {"eager"}:
        raise ContractError(f"{kind.__name__} changed its attention kernel", got=kernels, expected="eager")
    return module
