"""What a π0's arrays do not tell: heads, chunk, steps, cameras, statistics. From the caller, the files, a pack beside them, as published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.converters._pi0_files import CAMERAS, read_json
from harness.converters._pi0_stats import Stats, find_stats
from harness.errors import DamagedError, MissingError
from harness.layouts.pi0_arrays import Heads, Sizes
from harness.layouts.tensors import Lazy

__all__ = ["GIVEN", "Facts", "Given", "heads_of", "named"]

Given = Mapping[str, int]
GIVEN = ("heads", "kv_heads", "vision_heads", "chunk_size", "num_steps", "max_token_len")
_PUBLISHED_WIDTH, _PUBLISHED_EYE = 2048, 1152  # gemma_2b, So400m/14: their heads are 8 of 1 and 16
_LIKE_A_PACK = {  # where parity packs and `conversion.json` say so, of openpi and of lerobot
    "heads": ("paligemma.num_heads", "vlm.num_heads"),
    "kv_heads": ("paligemma.num_kv_heads", "vlm.num_kv_heads"),
    "vision_heads": ("siglip.num_heads", "vit.num_attention_heads"),
    "chunk_size": ("action_horizon", "chunk"),
    "num_steps": ("num_steps", "steps"),
    "max_token_len": ("max_token_len", "text_len"),
}
_LIKE_A_CONFIG = {  # of transformers' pi0, and of lerobot's old and new one
    "heads": ("vlm_config.text_config.num_attention_heads",),
    "kv_heads": ("vlm_config.text_config.num_key_value_heads",),
    "vision_heads": ("vlm_config.vision_config.num_attention_heads",),
    "chunk_size": ("chunk_size",),
    "num_steps": ("num_inference_steps", "num_steps"),
    "max_token_len": ("tokenizer_max_length", "text_kwargs.max_length"),
}
_ARITHMETIC = {  # what only one network of the three can be told
    "vlm_config.text_config.rms_norm_eps": 1e-6, "dit_config.rms_norm_eps": 1e-6, "vlm_config.vision_config.layer_norm_eps": 1e-6,
    "vlm_config.text_config.rope_parameters.rope_theta": 10000, "dit_config.rope_parameters.rope_theta": 10000,
    "vlm_config.text_config.hidden_act": "gelu_pytorch_tanh", "dit_config.hidden_act": "gelu_pytorch_tanh", "min_period": 4e-3, "max_period": 4.0,
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """`chunk_size` is None where nothing tells it: a configuration that needs it asks `chunk`. `cameras` are the slots' names."""

    image_size: int
    chunk_size: int | None
    num_steps: int
    max_token_len: int
    cameras: tuple[str, ...]
    stats: Stats | None
    where: Path

    @property
    def chunk(self) -> int:
        """Raises MissingError where neither the files nor the caller tell the number of actions of a chunk."""
        return self.chunk_size if self.chunk_size is not None else _unknown("chunk_size", self.where)

    @classmethod
    def gather(cls, directory: Path, layout: str, sizes: Sizes, given: Given, leftovers: Mapping[str, Lazy], asset: str | None) -> Facts:
        """Raises DamagedError where the files contradict the arrays, or ask for other arithmetic than π0's."""
        config, pack = read_json(directory / "config.json"), _pack(directory)
        if unlike := {key: value for key, usual in _ARITHMETIC.items() if (value := _at(config, key)) not in (None, usual)}:
            expected = {key: _ARITHMETIC[key] for key in unlike}
            raise DamagedError("the configuration asks for other arithmetic than π0's", where=directory / "config.json", got=unlike, expected=expected)
        _agree(directory, sizes, config, pack)
        side = math.isqrt(sizes.positions)
        if side * side != sizes.positions:
            raise DamagedError("the position table is of no square picture", where=directory, got=f"{sizes.positions} positions", expected="a square number")
        config = {**config, "text_kwargs": read_json(directory / "processor_config.json").get("text_kwargs")}
        published = {"num_steps": 10, "max_token_len": 200 if sizes.adaptive else 48, **({"chunk_size": 50} if sizes.width == _PUBLISHED_WIDTH else {})}
        known = {name: _first(name, given, config, pack, published) for name in ("chunk_size", "num_steps", "max_token_len")}
        visual = tuple(name for name, feature in (config.get("input_features") or {}).items() if feature.get("type") == "VISUAL")
        cameras = visual or tuple(pack.get("image_keys") or CAMERAS)
        return cls(side * sizes.patch, **known, cameras=cameras, stats=find_stats(directory, layout, leftovers, asset), where=directory)


def heads_of(directory: Path, shapes: Mapping[str, tuple[int, ...]], given: Given) -> Heads:
    """The numbers of heads of torch's tensors. Raises MissingError where nothing tells them."""
    widths = {shape[-1] for name, shape in shapes.items() if name.endswith("layers.0.mlp.gate_proj.weight") and shape}
    eyes = {shape[-1] for name, shape in shapes.items() if name.endswith("encoder.layers.0.mlp.fc1.weight") and shape}
    published = ({"heads": 8, "kv_heads": 1} if _PUBLISHED_WIDTH in widths else {}) | ({"vision_heads": 16} if _PUBLISHED_EYE in eyes else {})
    config, pack = read_json(directory / "config.json"), _pack(directory)
    found = [_first(name, given, config, pack, published) or _unknown(name, directory) for name in ("heads", "kv_heads", "vision_heads")]
    return Heads(*found)


def named(cameras: Sequence[str]) -> tuple[str, ...]:
    """Camera names without lerobot's prefix."""
    return tuple(name.removeprefix("observation.images.") for name in cameras)


def _agree(directory: Path, sizes: Sizes, config: Mapping[str, Any], pack: Mapping[str, Any]) -> None:
    """Raises DamagedError where a file tells another size than the arrays have: a last layer that is missing leaves no other trace."""
    told = {
        "layers": (sizes.depth, _at(config, "vlm_config.text_config.num_hidden_layers"), _at(pack, "paligemma.depth"), _at(pack, "vlm.depth")),
        "vision layers": (
            sizes.vision_depth,
            _at(config, "vlm_config.vision_config.num_hidden_layers"),
            _at(pack, "siglip.depth"),
            _at(pack, "vit.num_hidden_layers"),
        ),
        "max_action_dim": (sizes.action, config.get("max_action_dim")),
        "max_state_dim": (sizes.state, config.get("max_state_dim") if sizes.state else None),
    }
    if wrong := {name: [value for value in values if value not in (None, own)] for name, (own, *values) in told.items() if set(values) - {None, own}}:
        raise DamagedError("the checkpoint's files and its arrays disagree", where=directory, got={name: told[name][0] for name in wrong}, expected=wrong)


def _first(name: str, given: Given, config: Mapping[str, Any], pack: Mapping[str, Any], published: Mapping[str, int]) -> int | None:
    found = [given.get(name), *(_at(config, path) for path in _LIKE_A_CONFIG[name]), *(_at(pack, path) for path in _LIKE_A_PACK[name]), published.get(name)]
    return next((value for value in found if isinstance(value, int)), None)


def _pack(directory: Path) -> Mapping[str, Any]:
    """The `model` of an earlier conversion's record, else of the pack that the checkpoint folder is part of."""
    record = read_json(directory / "conversion.json").get("model")
    return record or read_json(directory.absolute().parent / "pack.json").get("model") or {}


def _at(tree: Mapping[str, Any], path: str) -> Any:
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _unknown(name: str, where: object) -> Any:
    expected, next = "the published sizes, or pack.json beside the folder", f"harness convert … --size {name}=NUMBER"
    raise MissingError(f"nothing in this checkpoint tells its {name}", where=where, expected=expected, next=next)
