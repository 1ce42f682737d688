"""The store's key knows a model by its name, not by its weights or its code."""

from __future__ import annotations

from dataclasses import asdict

from harness.faults import Patch

__all__ = ["stale_cache_key"]


def stale_cache_key(patch: Patch) -> None:
    from harness.checkpoints import canonical_digest
    from harness.store import Key

    def digest(self: Key) -> str:
        return canonical_digest({**asdict(self), "weights": "", "adapter": "", "subject": self.subject.partition(":")[0]})[:32]

    patch(Key, "digest", property(digest))
