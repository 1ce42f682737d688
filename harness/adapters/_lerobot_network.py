"""π0's network out of transformers' own modules: SigLIP and Gemma read the prefix once, the action expert denoises against its cache.

Sources: lerobot 71eff183f and 7427f318, `policies/pi0/modeling_pi0.py`. Axes: n samples, c cameras, p patches, t prefix positions,
h actions of a chunk, q = 1 + h positions of the expert, d width.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GemmaConfig, GemmaModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.gemma.modeling_gemma import GemmaRotaryEmbedding, GemmaTextScaledWordEmbedding

from harness.adapters._lerobot_config import PI0Config
from harness.adapters._lerobot_norm import with_visible_scales
from harness.adapters._lerobot_sizes import GemmaSizes, VisionSizes
from harness.errors import ContractError, UsageError

__all__ = ["PI0", "Prefix"]

KERNELS = {"eager", "sdpa"}
MASKED = -2.3819763e38  # upstream's, and finite: a query that may see nothing sees everything alike instead of NaN


class Prefix(NamedTuple):
    """What the language model reads: embeddings, valid positions, who attends to whom, rotary positions."""

    embedding: Float[Tensor, "n t d"]
    pad_mask: Bool[Tensor, "n t"]
    attention: Bool[Tensor, "n t t"]
    positions: Int[Tensor, "n t"]


@final
class PI0(nn.Module):
    """The whole network, frozen and in eval mode. The five small projections stay float32, as upstream keeps them."""

    def __init__(self, config: PI0Config, *, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        if attention not in KERNELS:
            raise UsageError("π0 runs under two attention kernels", got=attention, expected=" or ".join(sorted(KERNELS)))
        self.config, sizes = config, config.sizes
        options = {"attn_implementation": attention, "dtype": dtype}
        self.vision_tower = SiglipVisionModel._from_config(_siglip(sizes.vision), **options)
        self.projector = nn.Linear(sizes.vision.width, sizes.vlm.width, dtype=dtype)
        self.language_model = with_visible_scales(GemmaModel._from_config(_gemma(sizes.vlm, sizes.vocabulary), **options))
        self.expert = with_visible_scales(GemmaModel._from_config(_gemma(sizes.expert, 1), **options))
        self.expert.embed_tokens = None
        width = sizes.expert.width
        self.state_proj = nn.Linear(config.max_state, width)
        self.action_in_proj = nn.Linear(config.max_action, width)
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)
        self.action_out_proj = nn.Linear(width, config.max_action)
        self._require(attention)
        self.requires_grad_(False).eval()

    def _require(self, attention: str) -> None:
        configs = [getattr(module, "config", None) for module in self.modules()]
        kernels = {config._attn_implementation for config in configs if hasattr(config, "_attn_implementation")}
        if kernels != {attention}:
            raise ContractError("a part of π0 runs another attention kernel than asked for", got=kernels, expected=attention)
        if (kind := type(self.language_model.embed_tokens)) is not GemmaTextScaledWordEmbedding:
            what, expected = "this transformers does not scale Gemma's embeddings by itself", GemmaTextScaledWordEmbedding.__name__
            raise ContractError(what, got=kind.__name__, expected=expected)

    def fill_buffers(self) -> None:
        """Gives the buffers that no checkpoint holds their values; a build on the meta device leaves them empty."""
        device, embedding, tower = self.state_proj.weight.device, self.language_model.embed_tokens, self.vision_tower.embeddings
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale, device=device)
        tower.position_ids = torch.arange(tower.num_positions, device=device)[None]
        for gemma in (self.language_model, self.expert):
            with torch.device(device):
                gemma.rotary_emb = GemmaRotaryEmbedding(gemma.config)
        if empty := [name for name, x in (*self.named_parameters(), *self.named_buffers()) if x.is_meta]:
            raise ContractError("tensors were left without values after the load", got=empty)

    def forward(
        self,
        pixel_values: Float[Tensor, "n c 3 s s"],
        image_mask: Bool[Tensor, "n c"],
        tokens: Int[Tensor, "n l"],
        token_mask: Bool[Tensor, "n l"],
        state: Float[Tensor, "n m"],
        noise: Float[Tensor, "n h a"],
        time: Float[Tensor, " steps"],
    ) -> dict[str, Tensor]:
        """Actions (n, h, a) as the model's own numbers, and all that led to them: `prefix.*`, `x_t.SS`, `velocity.SS` by step."""
        prefix = self.prefix(pixel_values, image_mask, tokens, token_mask)
        cache = self.prefill(prefix)
        outputs = {"prefix.embedding": prefix.embedding, "prefix.pad_mask": prefix.pad_mask, "prefix.ar_mask": torch.zeros_like(prefix.pad_mask)}
        outputs |= {"prefix.attn_mask": prefix.attention, "prefix.positions": prefix.positions}
        x, dt = noise, -1.0 / len(time)
        for step in range(len(time)):
            velocity = self.denoise(prefix.pad_mask, cache, state, x, time[step])
            outputs |= {f"x_t.{step:02d}": x, f"velocity.{step:02d}": velocity}
            x = x + dt * velocity
        return {**outputs, "actions": x}

    def prefix(self, pixel_values: Tensor, image_mask: Tensor, tokens: Tensor, token_mask: Tensor) -> Prefix:
        """Pictures of all cameras, then the words; masked cameras keep their positions."""
        features = self.vision_tower(pixel_values.flatten(0, 1)).last_hidden_state
        images = self.projector(features).unflatten(0, image_mask.shape)
        seen = image_mask[:, :, None].expand(*image_mask.shape, images.shape[2])
        embedding = torch.cat([images.flatten(1, 2), self.embed_words(tokens)], dim=1)
        pad_mask = torch.cat([seen.flatten(1), token_mask], dim=1)
        return Prefix(embedding, pad_mask, prefix_attention(pad_mask), prefix_positions(pad_mask))

    def embed_words(self, tokens: Tensor) -> Tensor:
        """Embeddings of words, times the root of their width: transformers' embedding does that itself."""
        return self.language_model.embed_tokens(tokens)

    def prefill(self, prefix: Prefix) -> DynamicCache:
        """The language model's one pass; keys and values of every layer."""
        mask = additive(prefix.attention, prefix.embedding.dtype)
        cache = DynamicCache()
        self.language_model(inputs_embeds=prefix.embedding, attention_mask=mask, position_ids=prefix.positions, past_key_values=cache, use_cache=True)
        return cache

    def denoise(
        self, pad_mask: Tensor, cache: DynamicCache, state: Tensor, x: Float[Tensor, "n h a"], time: Float[Tensor, ""]
    ) -> Float[Tensor, "n h a"]:
        """The velocity at one time, by the expert over a cache of its own that begins with the prefix's."""
        suffix = self.suffix(state, x, time)
        attention = suffix_attention(pad_mask, suffix.shape[1])
        own = DynamicCache([(layer.keys, layer.values) for layer in cache.layers])
        mask, positions = additive(attention, suffix.dtype), suffix_positions(pad_mask, suffix.shape[1])
        hidden = self.expert(inputs_embeds=suffix, attention_mask=mask, position_ids=positions, past_key_values=own, use_cache=True).last_hidden_state
        return self.action_out_proj(hidden[:, 1:].float())

    def suffix(self, state: Tensor, x: Tensor, time: Tensor) -> Float[Tensor, "n q d"]:
        """The state token, then one token for every action of the chunk, each with the time mixed in."""
        action = self.action_in_proj(x)
        clock = time_embedding(time, action.shape[-1], self.config.min_period, self.config.max_period).to(action.dtype)
        mixed = self.action_time_mlp_in(torch.cat([action, clock.expand_as(action)], dim=-1))
        mixed = self.action_time_mlp_out(nn.functional.silu(mixed))
        return torch.cat([self.state_proj(state)[:, None], mixed], dim=1).to(self.expert.dtype)


def prefix_attention(pad_mask: Bool[Tensor, "n t"]) -> Bool[Tensor, "n t t"]:
    """Every valid position attends to every valid one; not causal."""
    return pad_mask[:, :, None] & pad_mask[:, None, :]


def prefix_positions(pad_mask: Bool[Tensor, "n t"]) -> Int[Tensor, "n t"]:
    """Rotary positions; padding takes none, so that a position before the first valid token is -1."""
    return pad_mask.cumsum(1) - 1


def suffix_attention(pad_mask: Bool[Tensor, "n t"], length: int) -> Bool[Tensor, "n q k"]:
    """The expert's tokens see the valid prefix and one another, but the state token sees no action."""
    block = torch.ones(length, length, dtype=torch.bool, device=pad_mask.device)
    block[0, 1:] = False
    return torch.cat([pad_mask[:, None, :].expand(-1, length, -1), block.expand(len(pad_mask), -1, -1)], dim=2)


def suffix_positions(pad_mask: Bool[Tensor, "n t"], length: int) -> Int[Tensor, "n q"]:
    """They go on from the number of valid prefix tokens, not from the length of the prefix."""
    return pad_mask.sum(1)[:, None] + torch.arange(length, device=pad_mask.device)


def additive(mask: Bool[Tensor, "n q k"], dtype: torch.dtype) -> Float[Tensor, "n 1 q k"]:
    """0 where attention is allowed, a large negative and finite number elsewhere; half of float16's largest, which logits are added to."""
    masked = torch.finfo(dtype).min / 2 if dtype is torch.float16 else MASKED
    return torch.where(mask[:, None], 0.0, masked).to(dtype)


def time_embedding(time: Float[Tensor, ""], width: int, shortest: float, longest: float) -> Float[Tensor, " width"]:
    """Sines, then cosines, of the time at periods from `shortest` to `longest`, in float64 (openpi computes it in float32)."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    angle = time.double() * (2 * math.pi / (shortest * (longest / shortest) ** fraction))
    return torch.cat([angle.sin(), angle.cos()])


def _gemma(sizes: GemmaSizes, vocabulary: int) -> GemmaConfig:
    return GemmaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_dim,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        hidden_act="gelu_pytorch_tanh",
        rms_norm_eps=1e-6,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )


def _siglip(sizes: VisionSizes) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_dim,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads or 1,
        patch_size=sizes.patch,
        image_size=sizes.image,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        vision_use_head=False,
    )
