"""Pictures that are decoded when somebody looks at them: a million records pass by for the price of their bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, final

import numpy as np

from harness.errors import DamagedError

__all__ = ["Encoded", "Pictures"]


@final
class Pictures(Mapping[str, np.ndarray]):
    """RGB uint8 (height, width, 3) by camera, decoded anew at every look; `sources` are functions that can be pickled.

    A look raises DamagedError when the picture cannot be decoded.
    """

    def __init__(self, sources: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, camera: str) -> np.ndarray:
        return self.sources[camera]()

    def __contains__(self, camera: object) -> bool:
        return camera in self.sources

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        return f"Pictures({', '.join(self.sources)})"


class Encoded(NamedTuple):
    """A JPEG or PNG file's bytes, and where they came from for the error. Calling it decodes."""

    data: bytes
    where: str

    def __call__(self) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.data)) as picture:
                return np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # Pillow raises each for some damage
            raise DamagedError("a picture cannot be decoded", where=self.where, got=f"{len(self.data)} bytes: {error}", expected="JPEG or PNG") from error
