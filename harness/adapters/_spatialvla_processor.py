"""What SpatialVLA's processor does before the network: prompt, picture and camera intrinsics.

Source: SpatialVLA e4807532, `model/processing_spatialvla.py`, `scripts/intrinsics.json`, `train/spatialvla_pretrain.py:366`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from harness.errors import DamagedError, UnknownNameError, UsageError

__all__ = ["INTRINSICS", "PROMPTS", "camera_intrinsic", "preprocess"]

# README.md:59 and test_huggingface.py; data/dataset.py:130 (as trained); document 004, Known Caveats (raw task text).
PROMPTS: Mapping[str, Callable[[str], str]] = {
    "spatialvla": lambda instruction: f"What action should the robot take to {instruction.lower()}?",
    "training": str.lower,
    "raw": str,
}
# scripts/intrinsics.json, what a checkpoint without a table of its own was trained with; pixels of a 640 x 480 picture.
_BRIDGE = {"intrinsic": [[623.588, 0, 319.501], [0, 623.588, 239.545], [0, 0, 1]], "height": 480, "width": 640}
INTRINSICS: Mapping[str, Mapping[str, Any]] = {"bridge_orig/1.0.0": _BRIDGE, "default": _BRIDGE}


def camera_intrinsic(table: Mapping[str, Mapping[str, Any]], key: str, side: int, where: object) -> Float[np.ndarray, "3 3"]:
    """The matrix of dataset `key` in pixels of a picture squeezed to `side` (:92-95), float32.

    Raises UnknownNameError for a key that the table lacks, where upstream silently takes "default" (:186); DamagedError
    for a malformed entry.
    """
    if key not in table:
        advice = "set options.intrinsic_key of the model card to one of them"
        raise UnknownNameError("camera intrinsic", key, table, where=where, next=advice)
    try:
        matrix = np.asarray(table[key]["intrinsic"], np.float32).reshape(3, 3)
        scale = np.asarray([side / table[key]["width"], side / table[key]["height"]], np.float32)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what, expected = f"the camera intrinsic of {key} is malformed", "intrinsic (3, 3), width, height"
        raise DamagedError(what, where=where, got=repr(error), expected=expected) from error
    return np.concatenate([matrix[:2] * scale[:, None], matrix[2:]])


def preprocess(image: np.ndarray, side: int, resample: int = Image.Resampling.BICUBIC) -> Float[np.ndarray, "3 side side"]:
    """The picture (h, w, 3) uint8 squeezed to `side` and scaled to [0, 1], float32: the network normalises, whatever
    a saved processor says of `do_normalize`. Raises UsageError for anything but RGB uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError("this is not an RGB picture", got=f"{image.dtype} {image.shape}", expected="uint8 (height, width, 3)")
    resized = Image.fromarray(image).resize((side, side), Image.Resampling(resample))
    return np.ascontiguousarray((np.asarray(resized, np.float64) * (1 / 255)).astype(np.float32).transpose(2, 0, 1))
