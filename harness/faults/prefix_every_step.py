"""The prefix is computed again for every denoise step."""

from __future__ import annotations

from collections.abc import Iterator

from harness.faults import Patch
from harness.types import Array, Point

__all__ = ["prefix_every_step"]


def prefix_every_step(patch: Patch) -> None:
    from harness.adapters import _openpi_sampler, openpi
    from harness.adapters._lerobot_network import PI0, Prefix

    original, prefill, denoise = _openpi_sampler.walk, PI0.prefill, PI0.denoise

    def walk(*args: object, **options: object) -> Iterator[tuple[Point | str, Array]]:
        for name, value in original(*args, **options):
            yield name, value
            if isinstance(name, Point) and name.stack == "expert" and name.stream == "embedding":
                for again, prefix in original(*args, **options):
                    if isinstance(again, Point) and again.stack == "expert":
                        break
                    yield again, prefix

    def remembered(self: PI0, prefix: Prefix) -> object:
        self._prefix = prefix
        return prefill(self, prefix)

    patch(openpi, "walk", walk)
    patch(PI0, "prefill", remembered)
    patch(PI0, "denoise", lambda self, pad_mask, cache, *rest: denoise(self, pad_mask, prefill(self, self._prefix), *rest))
