"""Where a hand takes hold of a thing, and the action that brings it nearer to where it should be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harness.environments import Solid

__all__ = ["FINGER", "WIDEST", "Grip", "grip", "motion", "opening", "pointing_down", "rotation", "turning"]

METRES = 0.05  # what a full action moves the hand by in one step
RADIANS = 0.5  # what a full action turns it by
FINGER = 0.036  # metres from the point between the finger tips to the palm: what may stand out above the grip
WIDEST = 0.075  # metres between the open fingers, less a little
WALL = 0.008  # metres from the outside of a bowl's rim to the middle of its wall
DEEP = 0.02  # metres that the fingers reach below a rim


class Grip(NamedTuple):
    """Where the fingers close, in metres, and the horizontal direction in radians along which they do."""

    point: np.ndarray
    yaw: float


def grip(thing: Solid, position: Float[np.ndarray, "3"], hand: Float[np.ndarray, "3 3"]) -> Grip:
    """Across the narrow side of what fits between the fingers, as deep as the palm allows; else over the wall that is nearer to the hand."""
    if thing.width <= WIDEST:
        return Grip(np.array([*thing.centre[:2], max(thing.centre[2], thing.top - FINGER)]), thing.yaw)
    yaw = opening(hand)
    out = np.array([np.cos(yaw), np.sin(yaw)])
    if out @ (position - thing.centre)[:2] < 0:
        out = -out
    return Grip(np.array([*(thing.centre[:2] + out * (thing.width / 2 - WALL)), thing.top - DEEP]), yaw)


def rotation(turn: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The matrix of a rotation given as axis times angle in radians (Rodrigues' formula)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = np.asarray(turn, dtype=np.float64) / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def turning(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """Axis times angle in radians of a rotation that is less than half a turn."""
    angle = np.arccos(np.clip((np.trace(matrix) - 1.0) / 2.0, -1.0, 1.0))
    axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    length = float(np.linalg.norm(axis))
    return np.zeros(3) if length < 1e-9 else axis * (angle / length)


def opening(hand: Float[np.ndarray, "3 3"]) -> float:
    """The horizontal direction in radians along which the fingers open: the hand's second axis."""
    return float(np.arctan2(hand[1, 1], hand[0, 1]))


def pointing_down(yaw: float, hand: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The hand upright over the table, its fingers opening along `yaw`; of the two ways round the one that is nearer to `hand`."""
    fingers = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    if fingers @ hand[:, 1] < 0:
        fingers = -fingers
    down = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(fingers, down), fingers, down], axis=1)


def motion(
    position: Float[np.ndarray, "3"],
    hand: Float[np.ndarray, "3 3"],
    target: Float[np.ndarray, "3"],
    facing: Float[np.ndarray, "3 3"],
    gripper: float,
    *,
    gain: float,
) -> Float[np.ndarray, "7"]:
    """The action float32 (7,) within [-1, 1] that closes `gain` of the distance and of the turn, or as much as one step can."""
    move = gain * (np.asarray(target) - position) / METRES
    turn = gain * turning(facing @ hand.T) / RADIANS
    return np.clip(np.concatenate([move, turn, [gripper]]), -1.0, 1.0).astype(np.float32)
