"""What a RoboVLMs configuration says, read where upstream reads it.

Source: RoboVLMs 8adc1d28, `robovlms/model/backbone/base_backbone.py` (BB) and `robovlms/model/policy_head/base_policy.py` (BP).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Kosmos2Config

from harness.errors import DamagedError, UnknownNameError

__all__ = ["PUBLISHED_KOSMOS", "HeadConfig", "RoboVLMConfig"]

HEADS = ("LSTMDecoder", "MobileVLALSTMDecoder")
DOWN_SAMPLES = ("none", "pooling")
PUBLISHED_KOSMOS = "kosmos-2-patch14-224"  # transformers' Kosmos2Config without arguments is this model's
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # BB:285-303
# A saved dtype must not decide ours, and a saved output_* switch would install transformers' permanent hooks.
DROPPED = {"model_type", "torch_dtype", "dtype", "output_hidden_states", "output_attentions", "return_dict"}


@dataclass(frozen=True)
class HeadConfig:
    """The policy head. `chunk` actions are predicted for each frame; a stream remembers the last `window` frames."""

    kind: str
    hidden_size: int
    action_dim: int
    down_sample: str
    latent: int  # action tokens of one frame
    num_layers: int
    window: int
    chunk: int

    @property
    def gripper(self) -> bool:
        """Whether the last action dimension is a gripper with a head of its own; the mobile robot has none."""
        return self.kind == "LSTMDecoder"


@dataclass(frozen=True)
class RoboVLMConfig:
    """One model: Kosmos-2, its policy head, the pictures it wants (side in pixels) and the range of its actions."""

    kosmos: Kosmos2Config
    head: HeadConfig
    use_hand_rgb: bool
    image_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    norm_action: bool
    norm_min: float
    norm_max: float
    model_load_path: str

    @classmethod
    def from_dict(cls, config: Mapping[str, object], kosmos: Mapping[str, object], where: object) -> RoboVLMConfig:
        """The configuration in a parsed json; `kosmos` is that of the vision-language model (empty: the published one).

        The window and the chunk are the top level's, whatever `act_head` says (BB:417-419). Raises: DamagedError for a
        missing, mistyped, contradictory or unsupported field; UnknownNameError for a head that is not built here.
        """
        if (name := _field(config, "robovlm_name", str, where)) != "RoboKosMos":
            raise DamagedError("not a RoboVLMs checkpoint on Kosmos-2", where=where, got=f"robovlm_name {name}", expected="RoboKosMos")
        head = _field(config, "act_head", dict, where)
        for field, supported in (("history_type", "post"), ("action_space", "continuous")):
            if (value := head.get(field) or supported) != supported:
                raise DamagedError(f"act_head.{field} is not supported", where=where, got=value, expected=supported)
        if config.get("use_vision_resampler"):
            raise DamagedError("use_vision_resampler is not supported", where=where, got=True, expected="false, as published")
        built = cls(
            kosmos=_kosmos(kosmos, where),
            head=HeadConfig(
                kind=_known("policy head", _field(head, "type", str, where), HEADS, where),
                hidden_size=_size(head, "hidden_size", where, 1024),
                action_dim=_size(head, "action_dim", where),
                down_sample=_known("act_head.down_sample", _field(head, "down_sample", str, where), DOWN_SAMPLES, where),
                latent=_size(head, "latent", where, 1),
                num_layers=_size(head, "num_layers", where, 4),
                window=_size(config, "window_size", where),
                chunk=_size(config, "fwd_pred_next_n", where),
            ),
            use_hand_rgb=_field(config, "use_hand_rgb", bool, where, False),
            image_size=_size(config, "image_size", where, 224),
            image_mean=_channels(config, "image_mean", where, CLIP[0]),
            image_std=_channels(config, "image_std", where, CLIP[1]),
            norm_action=_field(config, "norm_action", bool, where, False),
            norm_min=float(_field(config, "norm_min", float | int, where, -1.0)),
            norm_max=float(_field(config, "norm_max", float | int, where, 1.0)),
            model_load_path=_field(config, "model_load_path", str, where, ""),
        )
        vision, text = built.kosmos.vision_config, built.kosmos.text_config
        if vision.image_size != built.image_size:
            raise DamagedError("image_size is not the tower's", where=where, got=built.image_size, expected=vision.image_size)
        if text.embed_dim % text.attention_heads or vision.hidden_size % vision.num_attention_heads:
            got = (text.embed_dim, text.attention_heads, vision.hidden_size, vision.num_attention_heads)
            raise DamagedError("impossible transformer", where=where, got=got, expected="widths that their heads divide")
        return built

    @property
    def width(self) -> int:
        """Width of the language model, and so of the context vector: 2048 as published, vision's 1024 has no part in it."""
        return self.kosmos.text_config.embed_dim


def _kosmos(config: Mapping[str, object], where: object) -> Kosmos2Config:
    parts = {}
    for part in ("text_config", "vision_config"):
        saved = _field(config, part, dict, where, {})
        parts[part] = {name: value for name, value in saved.items() if name not in DROPPED}
    try:
        return Kosmos2Config(latent_query_num=_size(config, "latent_query_num", where, 64), **parts)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise DamagedError("no Kosmos-2 configuration", where=where, got=error) from error


def _field(config: Mapping[str, object], name: str, kind: Any, where: object, default: object = None) -> Any:
    """`config[name]`, or `default` where absent or null; DamagedError when that is not a `kind`."""
    value = default if config.get(name) is None else config[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        expected = getattr(kind, "__name__", kind)
        raise DamagedError(f"field {name!r} is missing or malformed", where=where, got=repr(value), expected=expected)
    return value


def _size(config: Mapping[str, object], name: str, where: object, default: int | None = None) -> int:
    value = _field(config, name, int, where, default)
    if value < 1:
        raise DamagedError(f"field {name!r} is out of range", where=where, got=value, expected="at least 1")
    return value


def _channels(config: Mapping[str, object], name: str, where: object, default: tuple[float, ...]) -> tuple[float, ...]:
    values = _field(config, name, list | tuple, where, default)
    if len(values) != 3 or not all(isinstance(value, float | int) for value in values):
        raise DamagedError(f"field {name!r} is malformed", where=where, got=values, expected="three numbers, one for each of R, G, B")
    return tuple(map(float, values))


def _known(kind: str, name: str, known: Iterable[str], where: object) -> str:
    if name not in known:
        raise UnknownNameError(kind, name, known, where=where, next="only these are built here")
    return name
