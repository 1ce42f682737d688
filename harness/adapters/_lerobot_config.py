"""What lerobot's config.json says of a π0: cameras and their order, horizon, steps, widths, and which of the two ages it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.adapters._lerobot_sizes import Sizes
from harness.errors import DamagedError, UsageError

__all__ = ["Age", "PI0Config", "config_age"]

Age = Literal["old", "new"]
OLD_FIELDS = ("resize_imgs_with_padding", "proj_width", "attention_implementation", "adapt_to_pi_aloha")
NEW_FIELDS = ("image_resolution", "paligemma_variant", "action_expert_variant", "num_inference_steps")
EMPTY_CAMERA = "observation.images.empty_camera_{}"
STATE, ACTION = "observation.state", "action"


@dataclass(frozen=True)
class PI0Config:
    """One checkpoint's architecture and settings. `old` is lerobot up to September 2025, whose pictures, horizon and clock differ.

    `image_keys` are the model's camera slots in order, `state_width` and `action_width` the dataset's own (None: not said),
    `resolution` the side pictures are resized to (None: not resized), `normalisation` the mode by kind of feature.
    """

    sizes: Sizes
    old: bool
    image_keys: tuple[str, ...]
    empty_cameras: int
    resolution: int | None
    horizon: int
    n_action_steps: int
    steps: int
    max_state: int
    max_action: int
    state_width: int | None
    action_width: int | None
    max_tokens: int
    min_period: float
    max_period: float
    normalisation: Mapping[str, str]
    relative_actions: bool = False

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], sizes: Sizes, *, old: bool, where: object) -> PI0Config:
        """The configuration in `config`, lerobot's defaults for what it leaves out.

        Raises DamagedError for fields that contradict each other, UsageError for what this family does not do.
        """
        if config.get("adapt_to_pi_aloha"):
            what = "this checkpoint converts ALOHA joints and grippers, which is not done here"
            raise UsageError(what, where=where, got="adapt_to_pi_aloha", expected="false")
        features = {**config.get("input_features", {}), **config.get("output_features", {})}
        kinds = {name: str(feature.get("type")) for name, feature in features.items()}
        empty = int(config.get("empty_cameras", 0))
        cameras = [name for name, kind in kinds.items() if kind == "VISUAL"]
        cameras += [name for name in map(EMPTY_CAMERA.format, range(empty)) if name not in cameras]
        if not cameras:
            got = ", ".join(features) or "no input_features"
            raise DamagedError("the configuration names no camera", where=where, got=got, expected="input_features of type VISUAL")
        modes = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD", **config.get("normalization_mapping", {})}
        if modes["VISUAL"] != "IDENTITY":
            raise UsageError("pictures are normalised by statistics, which π0 does not do", where=where, got=modes["VISUAL"], expected="IDENTITY")
        chunk, queued = int(config.get("chunk_size", 50)), int(config.get("n_action_steps", 50))
        if not 0 < queued <= chunk:
            got = f"n_action_steps {queued}, chunk_size {chunk}"
            raise DamagedError("more actions are queued than predicted", where=where, got=got, expected="n_action_steps up to chunk_size")
        found = cls(
            sizes=sizes,
            old=old,
            image_keys=tuple(cameras),
            empty_cameras=empty,
            resolution=_side(config, old=old, where=where),
            horizon=queued if old else chunk,
            n_action_steps=queued,
            steps=int(config.get("num_steps" if old else "num_inference_steps", 10)),
            max_state=int(config.get("max_state_dim", 32)),
            max_action=int(config.get("max_action_dim", 32)),
            state_width=_width(features, STATE),
            action_width=_width(features, ACTION),
            max_tokens=int(config.get("tokenizer_max_length", 48)),
            min_period=4e-3 if old else float(config.get("min_period", 4e-3)),
            max_period=4.0 if old else float(config.get("max_period", 4.0)),
            normalisation=modes,
            relative_actions=bool(config.get("use_relative_actions", False)),
        )
        if found.resolution not in (None, sizes.vision.image):
            got, expected = f"{found.resolution} pixels", f"{sizes.vision.image}, as its positions say"
            raise DamagedError("pictures do not fit the vision tower", where=where, got=got, expected=expected)
        widths = {STATE: (found.state_width, found.max_state), ACTION: (found.action_width, found.max_action)}
        if any((width or 0) > most for width, most in widths.values()) or found.steps < 1:
            expected = "the dataset's width up to the model's, a step at least"
            raise DamagedError("widths or steps contradict each other", where=where, got={**widths, "steps": found.steps}, expected=expected)
        return found

    def absent(self, present: int) -> int:
        """How many masked cameras follow `present` ones: all that lack a picture, in the old layout at most `empty_cameras`."""
        lacking = len(self.image_keys) - present
        return min(lacking, self.empty_cameras) if self.old else lacking

    @property
    def slots(self) -> tuple[str, ...]:
        """The cameras that can have a picture: all but those that upstream adds in order to leave them empty."""
        return tuple(name for name in self.image_keys if "empty_camera" not in name)


def config_age(config: Mapping[str, Any]) -> Age | None:
    """The age that the fields of a configuration say; None when they say neither or both."""
    old, new = (any(name in config for name in fields) for fields in (OLD_FIELDS, NEW_FIELDS))
    return None if old == new else "old" if old else "new"


def _width(features: Mapping[str, Any], name: str) -> int | None:
    shape = features.get(name, {}).get("shape")
    return None if not shape else int(shape[0])


def _side(config: Mapping[str, Any], *, old: bool, where: object) -> int | None:
    size = config.get("resize_imgs_with_padding" if old else "image_resolution", (224, 224))
    if size is None and old:
        return None
    if size is None or len(size) != 2 or size[0] != size[1]:
        raise DamagedError("pictures are not square", where=where, got=size, expected="two equal numbers")
    return int(size[0])
