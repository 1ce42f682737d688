"""Sizes of a π0: from the shapes of its tensors, what a pack beside the checkpoint says, or the published variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.adapters._weights import read_json, refuse
from harness.errors import DamagedError, MissingError

__all__ = ["GemmaSizes", "Sizes", "VisionSizes", "card_sizes", "pack_model", "require_heads", "stored_sizes"]

Shapes = Mapping[str, tuple[int, ...]]
PALIGEMMA = "model.paligemma_with_expert.paligemma."
LANGUAGE, EXPERT = f"{PALIGEMMA}model.language_model", "model.paligemma_with_expert.gemma_expert.model"
TOWER = f"{PALIGEMMA}model.vision_tower.vision_model"
VOCABULARY = 257152


@dataclass(frozen=True)
class GemmaSizes:
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> GemmaSizes:
        return cls(**{name: int(sizes[name]) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class VisionSizes:
    """SigLIP's sizes; `heads` is None where nothing says it, for no tensor's shape does. `image` is the side in pixels."""

    width: int
    depth: int
    mlp_dim: int
    heads: int | None
    patch: int
    image: int

    @classmethod
    def from_dict(cls, vit: Mapping[str, Any]) -> VisionSizes:
        names = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "patch_size", "image_size")
        return cls(*(int(vit[name]) for name in names))


@dataclass(frozen=True)
class Sizes:
    vocabulary: int
    vlm: GemmaSizes
    expert: GemmaSizes
    vision: VisionSizes


_Kind = TypeVar("_Kind", GemmaSizes, VisionSizes)

# Source: openpi 15a9616a, models/gemma.py:58-109, and the SigLIP So400m/14 that PaliGemma came with.
VARIANTS = {
    "gemma_2b": GemmaSizes(width=2048, depth=18, mlp_dim=16384, num_heads=8, num_kv_heads=1, head_dim=256),
    "gemma_300m": GemmaSizes(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256),
}
SIGLIP = VisionSizes(width=1152, depth=27, mlp_dim=4304, heads=16, patch=14, image=224)


def card_sizes(config: Mapping[str, Any]) -> Sizes:
    """The sizes of a model without a checkpoint: `sizes` of its card, in the words of a pack, or the published variants'."""
    if "sizes" in config:
        model = config["sizes"]
        return Sizes(int(model["vocab"]), GemmaSizes.from_dict(model["vlm"]), GemmaSizes.from_dict(model["exp"]), VisionSizes.from_dict(model["vit"]))
    return Sizes(VOCABULARY, *_variants(config), SIGLIP)


def stored_sizes(shapes: Shapes, config: Mapping[str, Any], model: Mapping[str, Any], *, where: object) -> Sizes:
    """The sizes of a checkpoint with tensors of `shapes` (today's names), one key-value head unless a known model fits.

    `model` is the pack's description, {} without one. Raises DamagedError when the shapes do not make a π0.
    """
    tied = (f"{LANGUAGE}.embed_tokens.weight", f"{PALIGEMMA}lm_head.weight")
    embedding = next((name for name in tied if name in shapes), tied[0])
    variants = _variants(config)
    vlm, expert = (
        _gemma(shapes, stack, [*_told(GemmaSizes, model, key), variant], where)
        for stack, key, variant in ((LANGUAGE, "vlm", variants[0]), (EXPERT, "exp", variants[1]))
    )
    if (vlm.depth, vlm.num_heads, vlm.num_kv_heads, vlm.head_dim) != (expert.depth, expert.num_heads, expert.num_kv_heads, expert.head_dim):
        what, expected = "the language model and the action expert cannot attend to each other", "the same depth, heads and head width"
        raise DamagedError(what, where=where, got=f"{vlm} and {expert}", expected=expected)
    vision = _vision(shapes, [*_told(VisionSizes, model, "vit"), SIGLIP], where)
    heads = vision.heads or model.get("vit", {}).get("num_attention_heads")
    return Sizes(_shape(shapes, embedding, 2, where)[0], vlm, expert, replace(vision, heads=heads))


def pack_model(directory: Path) -> Mapping[str, Any]:
    """What our converter's record in the checkpoint folder, or else a pack beside it, says of the model; {} without either."""
    records = [directory / "conversion.json", directory.resolve().parent / "pack.json"]
    model = next((read_json(path).get("model", {}) for path in records if path.is_file()), {})
    return model if isinstance(model, Mapping) else {}


def require_heads(sizes: Sizes, where: object) -> None:
    """Raises MissingError when nothing says how many heads the vision tower has."""
    if sizes.vision.heads is None:
        got = f"width {sizes.vision.width}; only {SIGLIP.width} is known to have {SIGLIP.heads}"
        expected, next = 'pack.json with {"model": {"vit": {"num_attention_heads": N}}}', "put that file beside the checkpoint folder"
        raise MissingError("nothing says how many heads the vision tower has", where=where, got=got, expected=expected, next=next)


def _told(kind: type[_Kind], model: Mapping[str, Any], key: str) -> list[_Kind]:
    """The sizes that a pack gives of one part; none where it leaves some out."""
    try:
        return [kind.from_dict(model[key])]
    except KeyError:
        return []


def _variants(config: Mapping[str, Any]) -> tuple[GemmaSizes, GemmaSizes]:
    named = config.get("paligemma_variant", "gemma_2b"), config.get("action_expert_variant", "gemma_300m")
    if unknown := [name for name in named if name not in VARIANTS]:
        raise DamagedError("the configuration names an unknown variant of Gemma", got=", ".join(map(str, unknown)), expected=", ".join(VARIANTS))
    return VARIANTS[named[0]], VARIANTS[named[1]]


def _gemma(shapes: Shapes, stack: str, known: list[GemmaSizes], where: object) -> GemmaSizes:
    rows = {part: _shape(shapes, f"{stack}.layers.0.{part}_proj.weight", 2, where) for part in ("self_attn.q", "self_attn.k", "mlp.gate")}
    (queries, width), (keys, _), (mlp_dim, _) = rows.values()
    for one in known:  # a known model's depth shows when layers at the end are missing
        if (one.width, one.mlp_dim, one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim) == (width, mlp_dim, queries, keys):
            return one
    return GemmaSizes(width, _depth(shapes, f"{stack}.layers"), mlp_dim, queries // keys, 1, keys)


def _vision(shapes: Shapes, known: list[VisionSizes], where: object) -> VisionSizes:
    width, _, patch, _ = _shape(shapes, f"{TOWER}.embeddings.patch_embedding.weight", 4, where)
    positions, _ = _shape(shapes, f"{TOWER}.embeddings.position_embedding.weight", 2, where)
    mlp_dim, _ = _shape(shapes, f"{TOWER}.encoder.layers.0.mlp.fc1.weight", 2, where)
    image = round(positions**0.5) * patch
    for one in known:
        if (one.width, one.mlp_dim, one.patch) == (width, mlp_dim, patch):
            return replace(one, image=image)
    return VisionSizes(width, _depth(shapes, f"{TOWER}.encoder.layers"), mlp_dim, SIGLIP.heads if width == SIGLIP.width else None, patch, image)


def _depth(shapes: Shapes, stack: str) -> int:
    found = [re.match(rf"{re.escape(stack)}\.(\d+)\.", name) for name in shapes]
    return 1 + max(int(match[1]) for match in found if match)


def _shape(shapes: Shapes, name: str, axes: int, where: object) -> tuple[int, ...]:
    refuse("tensors missing from the checkpoint", [] if name in shapes else [name], where)
    if len(shapes[name]) != axes:
        raise DamagedError(f"{name} has another shape than any π0", where=where, got=shapes[name], expected=f"{axes} axes")
    return shapes[name]
