"""OpenVLA's picture pipeline in Pillow and numpy: letterbox, bicubic resize, centre crop, scale, normalise, stack.

Source: openvla c8f03f48, `prismatic/extern/hf/processing_prismatic.py` (PROC); torchvision's `transforms.functional` for
the arithmetic of sizes. What a saved `preprocessor_config.json` says in its `tvf_*` fields is done, its `means` and `stds`
are not looked at: upstream restores `tvf_*` over what it computes from them, and the published ones differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from harness.errors import DamagedError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from harness.adapters._prismatic import PrismaticConfig

__all__ = ["default_preprocessor", "preprocess"]

_STRATEGIES = ("letterbox", "resize-crop", "resize-naive")
_PER_TOWER = ("tvf_resize_params", "tvf_crop_params", "tvf_normalize_params")
# Mean and deviation by kind of tower. The converter runs with bfloat16 as default dtype (convert_openvla_weights_to_hf.py:121),
# so published checkpoints carry ImageNet's numbers rounded to it: 0.484375 for 0.485, and so on.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_NORMALIZE = {
    "dinov2": {"mean": [0.484375, 0.455078125, 0.40625], "std": [0.228515625, 0.2236328125, 0.224609375]},
    "siglip": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}
_BICUBIC = 3  # Pillow's number, which is what the saved file holds


def default_preprocessor(config: PrismaticConfig) -> dict[str, Any]:
    """The `tvf_*` fields that upstream's converter would save for `config` (PROC:56-123), for checkpoints without them.

    Raises: UnknownNameError for an `image_resize_strategy` nobody knows.
    """
    strategy = config.image_resize_strategy
    if strategy not in _STRATEGIES:
        raise UnknownNameError("image_resize_strategy", strategy, _STRATEGIES, where=config.vision_backbone_id)
    sides = [tower.image_size for tower in config.towers]
    # The border takes the last tower's mean (PROC:113-119 overwrites it in the loop), unrounded.
    means = _IMAGENET_MEAN if config.towers[-1].kind == "dinov2" else (0.5, 0.5, 0.5)
    return {
        "image_resize_strategy": strategy,
        "tvf_do_letterbox": strategy == "letterbox",
        "tvf_letterbox_fill": [int(mean * 255) for mean in means] if strategy == "letterbox" else None,
        "tvf_resize_params": [
            {"size": [side, side] if strategy == "resize-naive" else side, "interpolation": _BICUBIC} for side in sides
        ],
        "tvf_crop_params": [{"output_size": [side, side]} for side in sides],
        "tvf_normalize_params": [_NORMALIZE[tower.kind] for tower in config.towers],
    }


def preprocess(
    image: UInt8[np.ndarray, "height width 3"],
    preprocessor: Mapping[str, Any],
    *,
    where: object = "preprocessor_config.json",
) -> Float32[np.ndarray, "channels side side"]:
    """Normalised pixels, three channels per tower, DINOv2's before SigLIP's (PROC:128-145); about -2.2 .. 2.7.

    Raises: UsageError for anything but an 8-bit RGB picture with its channels last; DamagedError for an unusable
    `preprocessor`, with `where` as its name.
    """
    _require_picture(image)
    resizes, crops, normalizes = _per_tower(preprocessor, where)
    stacked = []
    try:
        if preprocessor.get("tvf_do_letterbox", False):
            image = _letterboxed(image, preprocessor["tvf_letterbox_fill"])
        for resize, crop, normalize in zip(resizes, crops, normalizes, strict=True):
            pixels = _cropped(_resized(image, resize), _pair(crop["output_size"]))
            mean, std = (np.asarray(normalize[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
            scaled = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
            stacked.append((scaled - mean) / std)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError("unusable image preprocessing", where=where, got=repr(error), expected="upstream's tvf_* fields") from error
    return np.concatenate(stacked)


def _require_picture(image: np.ndarray) -> None:
    shape = getattr(image, "shape", None)
    if shape is None or getattr(image, "dtype", None) != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        got = f"{type(image).__name__} of {getattr(image, 'dtype', 'no dtype')}, shape {shape}"
        if shape is not None and len(shape) == 3 and shape[0] == 3 != shape[2]:
            got += ": channels come first"
        raise UsageError("not a picture this model can take", got=got, expected="uint8 array (height, width, 3), RGB, 0 .. 255")


def _per_tower(preprocessor: Mapping[str, Any], where: object) -> list[list[Mapping[str, Any]]]:
    columns = [preprocessor.get(name) for name in _PER_TOWER]
    if not all(isinstance(column, list) and column and len(column) == len(columns[0] or ()) for column in columns):
        expected = f"{', '.join(_PER_TOWER)}: one entry per tower in each"
        raise DamagedError("image preprocessing is incomplete", where=where, got=sorted(preprocessor), expected=expected)
    return columns  # type: ignore[return-value]


def _pair(size: int | list[int]) -> tuple[int, int]:
    """Height and width out of an integer or a list of one or two."""
    sizes = [size] if isinstance(size, int) else size
    return int(sizes[0]), int(sizes[-1])


def _letterboxed(image: np.ndarray, fill: list[int]) -> np.ndarray:
    """The picture with a border of equal width on both sides; one pixel short of square for an odd difference (PROC:23-29)."""
    height, width, _ = image.shape
    side = max(height, width)
    above, left = (side - height) // 2, (side - width) // 2
    canvas = np.empty((height + 2 * above, width + 2 * left, 3), np.uint8)
    canvas[:] = np.asarray(fill, np.uint8)
    canvas[above : above + height, left : left + width] = image
    return canvas


def _resized(image: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Pillow's resize; a single size is that of the shorter side, the longer follows, rounded down (torchvision)."""
    size, (height, width) = params["size"], image.shape[:2]
    if isinstance(size, int) or len(size) == 1:
        shorter, _ = _pair(size)
        longer = int(shorter * max(height, width) / min(height, width))
        new = (shorter, longer) if height <= width else (longer, shorter)
    else:
        new = _pair(size)
    resample = Image.Resampling(params.get("interpolation", _BICUBIC))
    return np.asarray(Image.fromarray(image).resize((new[1], new[0]), resample))


def _cropped(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of the picture; torchvision rounds half to even, as Python does. No resize leaves less than `size`."""
    starts = [round((have - want) / 2) for have, want in zip(image.shape[:2], size, strict=True)]
    if min(starts) < 0:
        raise ValueError(f"a crop to {size} of a picture resized to {image.shape[:2]}")
    return image[starts[0] : starts[0] + size[0], starts[1] : starts[1] + size[1]]
