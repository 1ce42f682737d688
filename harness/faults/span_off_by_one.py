"""The image span forgets the begin-of-sequence token before it."""

from __future__ import annotations

from harness.faults import Patch
from harness.faults._seams import change_tokens
from harness.types import TokenMap

__all__ = ["span_off_by_one"]


def span_off_by_one(patch: Patch) -> None:
    def change(tokens: TokenMap) -> TokenMap:
        if "image.0" not in tokens.spans:
            return tokens
        order = [*range(1, tokens.mask.shape[1]), 0]
        moved = {name: span[:, order] if name != "padding" else span for name, span in tokens.spans.items()}
        return TokenMap(tokens.mask, moved)

    change_tokens(patch, "lm", change)
