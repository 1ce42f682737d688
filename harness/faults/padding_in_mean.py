"""The mean runs over every position, padding included."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array, TokenMap

__all__ = ["padding_in_mean"]


def padding_in_mean(patch: Patch) -> None:
    from harness import pooling

    original = pooling.token_weights

    def weights(name: str, tokens: TokenMap) -> Array:
        return original(name, TokenMap(tokens.mask | ~tokens.mask, tokens.spans) if name == "mean" else tokens)

    patch(pooling, "token_weights", weights)
