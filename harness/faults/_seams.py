"""The three places where most mistakes are made: where a hook sits, what was loaded, how samples were encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.adapters import Adapter
from harness.faults import Patch
from harness.types import Batch, Clause, Point, Runtime, Subject, TokenMap

__all__ = ["change_encoding", "change_loading", "change_model", "change_tokens", "move_hooks"]


def move_hooks(patch: Patch, moved: Callable[[Point, Clause], Clause]) -> None:
    """Hooks are placed by `moved` clauses while the adapter keeps declaring the right ones."""
    from harness.adapters._torch import Capture

    original = Capture.__init__

    def init(self: Capture, model: object, clauses: dict[Point, Clause], *args: object, **kwargs: object) -> None:
        original(self, model, {point: moved(point, clause) for point, clause in clauses.items()}, *args, **kwargs)

    patch(Capture, "__init__", init)


def change_loading(patch: Patch, spoil: Callable[[Adapter], None]) -> None:
    """Every adapter is spoiled right after it was loaded."""
    from harness import subjects

    original = subjects.load

    def load(subject: Subject, runtime: Runtime) -> Adapter:
        adapter = original(subject, runtime)
        spoil(adapter)
        return adapter

    patch(subjects, "load", load)


def change_model(patch: Patch, spoil: Callable[[Adapter], None]) -> None:
    """Every adapter around a network is spoiled right after it was loaded."""
    change_loading(patch, lambda adapter: spoil(adapter) if hasattr(adapter, "model") else None)


def change_encoding(patch: Patch, changed: Callable[[Batch], Batch]) -> None:
    """Every batch is changed right after it was encoded."""

    def spoil(adapter: Adapter) -> None:
        original = adapter.encode
        adapter.encode = lambda samples: changed(original(samples))  # type: ignore[method-assign]

    change_loading(patch, spoil)


def change_tokens(patch: Patch, stack: str, changed: Callable[[TokenMap], TokenMap]) -> None:
    """The token map of one stack is changed in every batch that has it."""

    def change(batch: Batch) -> Batch:
        return replace(batch, tokens={name: changed(tokens) if name == stack else tokens for name, tokens in batch.tokens.items()})

    change_encoding(patch, change)
