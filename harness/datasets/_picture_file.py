"""A picture in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.errors import DamagedError
from harness.pictures import Encoded

__all__ = ["PictureFile"]


class PictureFile(NamedTuple):
    """A JPEG or PNG file, read and decoded when called: RGB uint8 (height, width, 3)."""

    path: Path

    def __call__(self) -> np.ndarray:
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise DamagedError("a picture is not readable", where=self.path, got=str(error), expected="a PNG or JPEG file") from error
        return Encoded(data, str(self.path))()
