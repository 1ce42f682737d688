"""Real photographs that scikit-learn ships, cropped into differing pictures, each paired with a real task instruction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import final

from harness.datasets._base import Rows
from harness.types import Sample

__all__ = ["Photos"]

PHOTOS = ("china.jpg", "flower.jpg")  # 427 x 640 RGB, CC-BY
CROP = (240, 320)


@final
class Photos(Rows):
    """`n` samples: crops (240, 320, 3) uint8 walking over both photographs, and instructions from `path`."""

    def __init__(self, path: Path, *, n: int = 8) -> None:
        super().__init__(path)
        self.n = n

    def rows(self) -> Iterator[Sample]:
        from sklearn.datasets import load_sample_image

        instructions = json.loads(self.path.read_text(encoding="utf-8"))["instructions"]
        pictures = [load_sample_image(name) for name in PHOTOS]
        height, width = CROP
        for index in range(self.n):
            picture = pictures[index % len(pictures)]
            walk = index // len(pictures)
            top, left = (37 * walk) % (picture.shape[0] - height), (61 * walk) % (picture.shape[1] - width)
            entry = instructions[(7 * index) % len(instructions)]
            crop = picture[top : top + height, left : left + width].copy()
            yield Sample(f"photo-{index:03d}", entry["instruction"], {"primary": crop}, group=entry["id"])
