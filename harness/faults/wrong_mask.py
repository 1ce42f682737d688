"""The mask of a left-padded batch is used on right-padded rows."""

from __future__ import annotations

from harness.faults import Patch
from harness.faults._seams import change_tokens
from harness.types import TokenMap

__all__ = ["wrong_mask"]


def wrong_mask(patch: Patch) -> None:
    change_tokens(patch, "lm", lambda tokens: TokenMap(tokens.mask[:, list(reversed(range(tokens.mask.shape[1])))], tokens.spans))
