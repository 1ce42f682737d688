"""Word embeddings are multiplied by the root of their width although the embedding did that already."""

from __future__ import annotations

from harness.faults import Patch

__all__ = ["embedding_scaled_twice"]


def embedding_scaled_twice(patch: Patch) -> None:
    from harness.adapters import _openpi_gemma
    from harness.adapters._lerobot_network import PI0

    embed, words = _openpi_gemma.embed, PI0.embed_words
    patch(_openpi_gemma, "embed", lambda table, ids, **options: embed(table, ids, **options) * table.shape[1] ** 0.5)
    patch(PI0, "embed_words", lambda self, tokens: words(self, tokens) * self.language_model.config.hidden_size**0.5)
