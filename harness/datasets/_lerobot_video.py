"""Frames of a video by their time: a file is opened once per process, and reading on from the last frame decodes each frame once."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from harness.errors import DamagedError, MissingError

if TYPE_CHECKING:
    import av

__all__ = ["Decoder", "VideoFrame"]

OPEN = 8  # decoders kept: cameras of the episodes that are being read
READ_ON = 2.0  # seconds ahead that are decoded through rather than sought: keyframes of these datasets lie closer than that
ROUNDING = 1e-4  # seconds; timestamps are float32


class VideoFrame(NamedTuple):
    """The frame at `time` seconds, give or take `tolerance`; calling it decodes, RGB uint8 (height, width, 3)."""

    path: Path
    time: float
    tolerance: float

    def __call__(self) -> np.ndarray:
        return _decoder(self.path).frame(self.time, self.tolerance)


_KEPT: OrderedDict[tuple[int, Path], Decoder] = OrderedDict()
_KEPT_LOCK = threading.Lock()


def _after_fork() -> None:
    """A child shares the files' positions with its parent, and a lock may have been held: it starts with none of either."""
    global _KEPT, _KEPT_LOCK
    _INHERITED.append(_KEPT)  # closing what the parent goes on using is not the child's business
    _KEPT, _KEPT_LOCK = OrderedDict(), threading.Lock()


_INHERITED: list[OrderedDict[tuple[int, Path], Decoder]] = []
if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_after_fork)


def _decoder(path: Path) -> Decoder:
    """The one kept for the file, else a new one in place of the longest unused."""
    with _KEPT_LOCK:
        stat = path.stat() if path.exists() else None
        key = (stat.st_mtime_ns if stat else 0, path)  # a file that was replaced is opened anew
        if key not in _KEPT:
            _KEPT[key] = Decoder(path)
            while len(_KEPT) > OPEN:
                _KEPT.popitem(last=False)[1].close()
        _KEPT.move_to_end(key)
        return _KEPT[key]


class _Decoded(NamedTuple):
    time: float
    frame: av.VideoFrame


@final
class Decoder:
    """One video, decoded forwards; a frame that lies behind or far ahead is sought from the keyframe before it.

    `decoded` counts the frames decoded so far. Threads take turns.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.decoded = path, 0
        self._lock = threading.Lock()
        self._container: av.container.InputContainer | None = None
        self._frames: Iterator[av.VideoFrame] | None = None
        self._last: list[_Decoded] = []  # the two frames decoded last, as they are: conversion costs more than decoding
        try:
            import av
        except ImportError as error:
            raise MissingError("LeRobot videos need the av package", where=path, next="pip install 'vla-harness[lerobot]' -c constraints.txt") from error
        self._open, self._errors = av.open, (av.FFmpegError, OSError, ValueError, EOFError, IndexError)

    def close(self) -> None:
        """Gives the file back now, not when garbage is collected; the next frame opens it again."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container, self._frames, self._last = None, None, []

    def frame(self, time: float, tolerance: float) -> np.ndarray:
        """The frame nearest to `time`. Raises DamagedError when it lies further away than `tolerance`, or nothing can be decoded."""
        with self._lock:
            try:
                nearest = self._nearest(time, tolerance)
                if nearest is not None and abs(nearest.time - time) <= tolerance + ROUNDING:
                    return nearest.frame.to_ndarray(format="rgb24")
            except self._errors as error:
                self._forget()
                got, expected, next = str(error), "a whole video file", "copy the file again"
                raise DamagedError("a video cannot be decoded", where=self.path, got=got, expected=expected, next=next) from error
        found = "no frame" if nearest is None else f"the nearest at {nearest.time:.4f} s"
        raise DamagedError("a video has no frame at this time", where=self.path, got=found, expected=f"one at {time:.4f} s, within {tolerance:.4f} s")

    def _nearest(self, time: float, tolerance: float) -> _Decoded | None:
        ahead = time - self._last[-1].time if self._last else 0.0
        within = self._last and time >= self._last[0].time - tolerance
        if self._frames is None or not within or ahead > READ_ON:
            self._seek(time - tolerance)
        self._advance(time)
        if self._last and self._last[0].time > time + tolerance:  # the keyframe that was sought is shown later than its place in the file
            self._seek(0.0)
            self._advance(time)
        return min(self._last, key=lambda decoded: abs(decoded.time - time), default=None)

    def _seek(self, time: float) -> None:
        if self._container is None:
            self._container = self._open(str(self.path))
            self._container.streams.video[0].codec_context.thread_count = 1  # more would be missing in a forked child; workers decode in parallel as it is
        stream = self._container.streams.video[0]
        assert stream.time_base is not None
        self._container.seek(max(0, floor(time / stream.time_base)), stream=stream, backward=True)
        self._frames, self._last = self._container.decode(stream), []

    def _advance(self, time: float) -> None:
        """Decodes up to the first frame at or after `time`; at the end of the video the last frames stay."""
        while not self._last or self._last[-1].time < time:
            frame = next(self._frames, None) if self._frames is not None else None
            if frame is None:
                return
            self.decoded += 1
            if frame.time is not None:
                self._last = [*self._last[-1:], _Decoded(float(frame.time), frame)]
