"""Pictures as lerobot's two ages give them to SigLIP: resized without distortion, padded with black, in [-1, 1].

Sources: lerobot 71eff183f, `modeling_pi0.py:130` (old); 7427f318, `common/vla_utils.py:137` (new).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from harness.errors import UsageError

__all__ = ["prepare"]


def prepare(pictures: Float[Tensor, "n 3 h w"], *, side: int | None, old: bool) -> Float[Tensor, "n 3 s s"]:
    """Pictures in [0, 1] as the model takes them, in [-1, 1], black -1; `side` None leaves their size. Raises UsageError."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        expected = "(n, 3, height, width), floating-point numbers in [0, 1]"
        raise UsageError("these are no pictures", got=f"{tuple(pictures.shape)} {pictures.dtype}", expected=expected)
    pictures = pictures.float()
    if side is not None and (old or tuple(pictures.shape[2:]) != (side, side)):
        pictures = padded_left_top(pictures, side) if old else padded_around(pictures, side)
    return pictures * 2.0 - 1.0


def padded_left_top(pictures: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 s s"]:
    """The old layout's: the picture in the lower right corner."""
    resized = resize(pictures, side)
    return functional.pad(resized, (side - resized.shape[3], 0, side - resized.shape[2], 0), value=0.0)


def padded_around(pictures: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 s s"]:
    """The new layout's, and openpi's: the picture in the middle, an odd row or column of black below or to the right."""
    resized = resize(pictures, side).clamp(0.0, 1.0)
    top, left = ((side - length) // 2 for length in resized.shape[2:])
    return functional.pad(resized, (left, side - resized.shape[3] - left, top, side - resized.shape[2] - top), value=0.0)


def resize(pictures: Float[Tensor, "n 3 h w"], side: int) -> Tensor:
    """The pictures with their longer edge `side` pixels long, the other cut to a whole number of pixels; no antialiasing."""
    height, width = pictures.shape[2:]
    ratio = max(width / side, height / side)
    size = int(height / ratio), int(width / ratio)
    if min(size) < 1:
        raise UsageError("a picture is too narrow to be resized", got=(height, width), expected=f"edges less than {side} times as long as each other")
    return functional.interpolate(pictures, size=size, mode="bilinear", align_corners=False)


def from_uint8(picture: Tensor) -> Float[Tensor, "1 3 h w"]:
    """An RGB picture (h, w, 3) of bytes, in [0, 1]. Raises UsageError for any other."""
    if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UsageError("this is not an RGB picture", got=f"{picture.dtype} {tuple(picture.shape)}", expected="uint8 (height, width, 3)")
    return picture.permute(2, 0, 1)[None].to(torch.float32) / 255
