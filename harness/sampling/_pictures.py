"""N pictures spread evenly over a stream of unknown length, decoded to see which are damaged, how large they are and which show nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import DamagedError
from harness.types import Sample

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Decoded", "Spread"]


@dataclass(frozen=True)
class Decoded:
    """`sizes` counts pictures by camera and shape; `flat` ones have one value everywhere; `broken` ids cannot be decoded, each with the reason."""

    pictures: int
    sizes: dict[str, int]
    flat: tuple[str, ...]
    broken: dict[str, str]


class _Held(NamedTuple):
    id: str
    images: Mapping[str, np.ndarray]


class Spread:
    """Holds the undecoded pictures of at most 2 n + 1 samples: when there are more, every second is dropped and from then on every second passed over."""

    def __init__(self, n: int) -> None:
        self.n, self._stride, self._count = n, 1, 0
        self._held: list[_Held] = []

    def offer(self, sample: Sample) -> None:
        """The next sample; one without pictures is passed over."""
        if not sample.images or not self.n:
            return
        if self._count % self._stride == 0:
            self._held.append(_Held(sample.id, sample.images))
            if len(self._held) > 2 * self.n:
                self._held, self._stride = self._held[::2], 2 * self._stride
        self._count += 1

    def decoded(self) -> Decoded:
        """What n pictures are, or as many as there are samples with pictures; of several cameras one after the other gets its turn."""
        n = min(self.n, len(self._held))
        sizes: Counter[str] = Counter()
        flat, broken = [], {}
        for turn in range(n):
            held = self._held[turn * len(self._held) // n]
            camera = list(held.images)[turn % len(held.images)]
            try:
                picture = held.images[camera]
            except DamagedError as error:
                broken[f"{held.id} {camera}"] = " ".join(str(part) for part in (error.what, error.got) if part is not None)
                continue
            sizes[f"{camera} {picture.dtype} {'x'.join(map(str, picture.shape))}"] += 1
            if picture.size and picture.min() == picture.max():
                flat.append(f"{held.id} {camera}")
        return Decoded(n, dict(sorted(sizes.items())), tuple(flat), broken)
