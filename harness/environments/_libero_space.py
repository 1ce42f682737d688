"""Positions and orientations as LIBERO's data has them: axis times angle, the box around a thing, pictures the right way up."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from harness.environments._base import Solid

__all__ = ["axis_angle", "box_corners", "solid", "upright"]

_YAWS = np.deg2rad(np.arange(0, 180, 2.0))
_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)


def axis_angle(quaternion: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3"]:
    """Axis times angle in radians, angle in [0, 2 pi], of a unit quaternion (x, y, z, w).

    The angle is not brought to [0, pi], because the states that LIBERO policies are trained on are not either.
    """
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3], dtype=np.float64) * (2.0 * np.arccos(w) / sine)


def upright(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with its rows turned over: OpenGL counts them from below. Left and right stay."""
    return np.ascontiguousarray(picture[::-1])


def box_corners(centre: Float[np.ndarray, "3"], rotation: Float[np.ndarray, "3 3"], half: Float[np.ndarray, "3"]) -> Float[np.ndarray, "8 3"]:
    """The corners of a box in the world's frame, in metres."""
    return centre + (_SIGNS * half) @ rotation.T


def solid(corners: Float[np.ndarray, "n 3"]) -> Solid:
    """The thing that these corners belong to; its narrow direction is found to 2 degrees."""
    directions = np.stack([np.cos(_YAWS), np.sin(_YAWS)])
    along = corners[:, :2] @ directions
    widths = along.max(axis=0) - along.min(axis=0)
    best = int(widths.argmin())
    across = (best + len(_YAWS) // 2) % len(_YAWS)  # the direction at a right angle
    middle = (along.max(axis=0) + along.min(axis=0)) / 2
    centre = middle[best] * directions[:, best] + middle[across] * directions[:, across]
    bottom, top = float(corners[:, 2].min()), float(corners[:, 2].max())
    return Solid(np.array([*centre, (bottom + top) / 2]), float(widths[best]), float(widths[across]), bottom, top, float(_YAWS[best]))
