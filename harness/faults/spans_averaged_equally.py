"""The mean over several spans is the plain average of their means, whatever their lengths."""

from __future__ import annotations

from harness.faults import Patch
from harness.types import Array, TokenMap

__all__ = ["spans_averaged_equally"]


def spans_averaged_equally(patch: Patch) -> None:
    from harness import pooling

    original = pooling.token_weights

    def weights(name: str, tokens: TokenMap) -> Array:
        kind, sign, spans = name.partition(":")
        parts = [original(f"{kind}{sign}{span}", tokens) for span in spans.split("+")] if sign else [original(name, tokens)]
        return sum(parts) / len(parts)

    patch(pooling, "token_weights", weights)
