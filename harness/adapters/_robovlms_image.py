"""RoboVLMs' image processing: a picture squeezed to a square, not cropped.

Source: RoboVLMs 8adc1d28, `base_backbone.py:285-303` (Resize bicubic on PIL, ToTensor, Normalize); the mobile robot's training
loader scales bilinearly and does not normalise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from harness.adapters._robovlms_config import RoboVLMConfig
from harness.errors import UnknownNameError, UsageError

__all__ = ["STYLES", "preprocess"]
STYLES = ("robovlms", "mobile")


def preprocess(image: UInt8[np.ndarray, "h w 3"], config: RoboVLMConfig, style: str = "robovlms") -> Float[np.ndarray, "3 s s"]:
    """The picture as the tower takes it, float32. Raises: UsageError for anything but RGB uint8, UnknownNameError for the style."""
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError("this is not an RGB picture", got=f"{image.dtype} {image.shape}", expected="uint8 (height, width, 3)")
    if style not in STYLES:
        raise UnknownNameError("image preprocessing", style, STYLES, where="the model card's options.preprocessing")
    kernel: Any = Image.Resampling.BICUBIC if style == "robovlms" else Image.Resampling.BILINEAR
    pixels = np.asarray(Image.fromarray(image).resize((config.image_size, config.image_size), kernel), np.float32) / 255
    if style == "robovlms":
        pixels = (pixels - np.asarray(config.image_mean, np.float32)) / np.asarray(config.image_std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
