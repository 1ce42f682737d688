"""What a π0 checkpoint's own leaves do not say: camera slots, lengths, steps, picture size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from harness.adapters._openpi_sizes import Sizes
from harness.adapters._weights import read_json
from harness.errors import DamagedError, UsageError

__all__ = ["Settings", "settings_of"]

IMAGE_KEYS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # openpi models/model.py, in the order of the sequence


@dataclass(frozen=True)
class Settings:
    """Camera slots in the sequence's order, picture size (height, width), tokens of a prompt, actions of a chunk, Euler steps.

    `discrete_state`: the state is words of the prompt (π0.5) rather than a token of the expert.
    """

    image_keys: tuple[str, ...]
    image_size: tuple[int, int]
    prompt_tokens: int
    horizon: int
    steps: int
    discrete_state: bool


def settings_of(sizes: Sizes, config: Mapping[str, Any], options: Mapping[str, Any], directory: Path | None) -> Settings:
    """Upstream's published settings (openpi models/pi0_config.py), where the card's options, the record of a conversion, the parity
    pack beside the checkpoint or the configuration say nothing else; the first of them that does wins.

    Of π0.5 a pack does not say the prompt's length: its prompts come as tokens, in tiny packs fewer than the words of a state alone.
    Raises DamagedError when the picture size is not that of the position embedding, UsageError for numbers below one.
    """
    pack = {name: value for name, value in _model(directory, "../pack.json").items() if name != "max_token_len" or not sizes.pi05}
    sources = (options, _model(directory, "conversion.json"), pack, config)

    def told(name: str, published: Any) -> Any:
        return next((source[name] for source in sources if source.get(name) is not None), published)

    side, (rows, columns) = isqrt(sizes.patches), sizes.patch
    height, width = told("image_resolution", (side * rows, side * columns))
    if height % rows or width % columns or (height // rows) * (width // columns) != sizes.patches:
        expected, hint = f"{sizes.patches} patches of {rows} x {columns}", "name it in options.image_resolution"
        got = f"{height} x {width}"
        raise DamagedError("the picture size is not the network's", where=directory, got=got, expected=expected, next=hint)
    numbers = {"max_token_len": 200 if sizes.pi05 else 48, "action_horizon": 50, "num_steps": 10}
    found = {name: told(name, published) for name, published in numbers.items()}
    if wrong := {name: value for name, value in found.items() if not isinstance(value, int) or value < 1}:
        raise UsageError("a setting is no positive number", where=directory, got=wrong, expected="integers of at least 1")
    return Settings(
        image_keys=tuple(told("image_keys", IMAGE_KEYS)),
        image_size=(height, width),
        prompt_tokens=found["max_token_len"],
        horizon=found["action_horizon"],
        steps=found["num_steps"],
        discrete_state=sizes.pi05 and bool(told("discrete_state_input", True)),
    )


def _model(directory: Path | None, name: str) -> Mapping[str, Any]:
    """What the file `name` beside the leaves says of the model; nothing where there is none."""
    if directory is None or not (path := directory.resolve() / name).is_file():
        return {}
    return read_json(path).get("model", {})
