"""The action expert is given the mean of the noise in place of the noise."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["noise_ignored"]


def noise_ignored(patch: Patch) -> None:
    from harness.adapters import _openpi_sampler
    from harness.adapters._lerobot_network import PI0

    embed, suffix = _openpi_sampler.embed_suffix, PI0.suffix
    patch(_openpi_sampler, "embed_suffix", lambda parameters, state, actions, time: embed(parameters, state, 0 * actions, time))
    patch(PI0, "suffix", lambda self, state, x, time: suffix(self, state, 0 * x, time))
