"""The prefix is computed again for every denoise step."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from harness.adapters import Adapter
from harness.faults import Patch
from harness.faults._seams import change_loading
from harness.types import Array, Point

__all__ = ["prefix_every_step"]


def prefix_every_step(patch: Patch) -> None:
    from harness.adapters import _openpi_sampler, openpi
    from harness.adapters._lerobot_network import PI0

    original, denoise = _openpi_sampler.walk, PI0.denoise

    def walk(*args: object, **options: object) -> Iterator[tuple[Point | str, Array]]:
        for name, value in original(*args, **options):
            yield name, value
            if isinstance(name, Point) and name.stack == "expert" and name.stream == "embedding":
                for again, prefix in original(*args, **options):
                    if isinstance(again, Point) and again.stack == "expert":
                        break
                    yield again, prefix

    def unhooked(adapter: Adapter) -> None:
        """A second language model over the same weights, whose passes no capture sees: it would refuse a second firing."""
        if isinstance(network := getattr(adapter, "model", None), PI0):
            shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
            network.__dict__["_spare"] = copy.deepcopy(network.language_model, shared)

    def again(self: PI0, pad_mask: Array, cache: object, *rest: Array) -> Array:
        width = self.language_model.config.hidden_size
        self.__dict__["_spare"](inputs_embeds=rest[0].new_zeros(*pad_mask.shape, width, dtype=self.language_model.dtype))
        return denoise(self, pad_mask, cache, *rest)

    patch(openpi, "walk", walk)
    patch(PI0, "denoise", again)
    change_loading(patch, unhooked)
