"""The features of an RLDS record in dot notation, and the part of them that is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from harness.errors import DamagedError, UnknownNameError
from harness.trees import nested

__all__ = ["check", "chosen", "described", "episode_leaves", "is_number", "is_picture", "is_text", "step_leaves", "under"]


def step_leaves(features: Any, where: object) -> dict[str, Any]:
    """What a step holds, by key. Raises DamagedError for a dataset of another kind."""
    import tensorflow_datasets as tfds

    steps = features["steps"] if isinstance(features, tfds.features.FeaturesDict) and "steps" in features else None
    if not isinstance(steps, tfds.features.Sequence) or not isinstance(steps.feature, tfds.features.FeaturesDict):
        got = ", ".join(sorted(leaves(features))[:12]) or type(features).__name__
        raise DamagedError("this TFDS dataset is not RLDS", where=where, got=got, expected="episodes with a nested dataset `steps`")
    return leaves(steps.feature)


def episode_leaves(features: Any) -> dict[str, Any]:
    """What an episode holds beside its steps, by key."""
    return {key: leaf for key, leaf in leaves(features).items() if key != "steps"}


def leaves(features: Any, prefix: str = "") -> dict[str, Any]:
    """The features that are no dictionaries themselves, by key."""
    import tensorflow_datasets as tfds

    if not isinstance(features, tfds.features.FeaturesDict):
        return {prefix: features} if prefix else {}
    found: dict[str, Any] = {}
    for key in sorted(features):
        found |= leaves(features[key], f"{prefix}.{key}" if prefix else key)
    return found


def chosen(features: Any, step_keys: Iterable[str], episode_keys: Iterable[str], where: object) -> tuple[Any, dict[str, Any]]:
    """The features of these keys alone, which parse the same records and skip the rest, and decoders that leave pictures encoded."""
    from tensorflow_datasets import decode
    from tensorflow_datasets import features as kinds

    steps = {key: leaf for key, leaf in step_leaves(features, where).items() if key in set(step_keys)}
    others = {key: leaf for key, leaf in episode_leaves(features).items() if key in set(episode_keys)}
    skipped = {key: decode.SkipDecoding() for key, leaf in steps.items() if isinstance(leaf, kinds.Image)}
    return kinds.FeaturesDict({"steps": kinds.Dataset(nested(steps)), **nested(others)}), {"steps": nested(skipped)}


def is_picture(leaf: Any) -> bool:
    """Whether a feature is 8-bit pictures, encoded or not; depth is not."""
    from tensorflow_datasets import features as kinds

    return np.dtype(leaf.np_dtype) == np.uint8 and (isinstance(leaf, kinds.Image) or (len(leaf.shape) == 3 and leaf.shape[-1] == 3))


def is_text(leaf: Any) -> bool:
    """Whether a feature is text, or an array of texts."""
    from tensorflow_datasets import features as kinds

    return not isinstance(leaf, kinds.Image) and np.dtype(leaf.np_dtype).kind in "OSU"


def is_number(leaf: Any) -> bool:
    """Whether a feature is numbers or flags, in an array of any shape."""
    return not is_picture(leaf) and np.dtype(leaf.np_dtype).kind in "biuf"


def under(key: str, leaves: Iterable[str]) -> list[str]:
    """The keys that are `key` or lie under it."""
    return [leaf for leaf in leaves if leaf == key or leaf.startswith(f"{key}.")]


def check(kind: str, key: str, fitting: Iterable[str], where: object) -> None:
    """Raises UnknownNameError, which lists the keys that fit, when `key` is none of them."""
    fitting = sorted(fitting)
    if key not in fitting:
        raise UnknownNameError(kind, key, fitting, where=where, next="harness dataset stats PATH lists every key with its shape")


def described(leaf: Any) -> str:
    """A feature in words: `uint8 (224, 224, 3) jpeg`, `float32 (7,)`, `text`."""
    from tensorflow_datasets import features as kinds

    if isinstance(leaf, kinds.Image):
        return f"{np.dtype(leaf.np_dtype)} {leaf.shape} {leaf.encoding_format or 'encoded'}"
    if isinstance(leaf, kinds.Sequence):
        return f"sequence of {type(leaf.feature).__name__}"
    return ("text" if is_text(leaf) else str(np.dtype(leaf.np_dtype))) + (f" {leaf.shape}" if leaf.shape else "")
