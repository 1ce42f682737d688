"""The capture engine: records named points of a torch module during its own forward and leaves no trace of having done so.

Hooks return None, copy before they keep, hold no graph, draw no random number and are removed even when the forward
raises. `output_hidden_states=True` is never used: transformers 5 leaves permanent hooks behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import final

import torch
from torch import Tensor, nn

from harness.errors import ContractError
from harness.types import Clause, Point

__all__ = ["Capture", "Keep"]

Keep = Callable[[Point, Tensor], Tensor]


class _Enough(BaseException):
    """Ends the forward once every point of its `owner` is recorded. A BaseException so that no model code can swallow it."""

    def __init__(self, owner: Capture) -> None:
        self.owner = owner


def whole(point: Point, value: Tensor) -> Tensor:
    """Every token, as an independent float32 copy."""
    return value.to(torch.float32, copy=True)


@final
class Capture:
    """Context manager: within it, one forward of `model` fills `values` with every point of `clauses`.

    `keep` reduces a tensor (n, t, d) on its own device before anything is stored; the default keeps a float32 copy.
    Axes between the first and the last (window, latent) are given to it as one axis of positions, and so are folded rows.
    With `stop` the forward ends, silently, once the last point has been recorded, so its return value never arrives.

    Raises ContractError when a module does not exist, does not fire, fires twice where its clause names no call, or holds no
    tensor where declared.
    """

    def __init__(self, model: nn.Module, clauses: Mapping[Point, Clause], keep: Keep = whole, *, stop: bool = False) -> None:
        self.values: dict[Point, Tensor] = {}
        self._model, self._clauses, self._keep, self._stop = model, clauses, keep, stop
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Capture:
        try:
            for point, clause in self._clauses.items():
                self._handles.append(self._register(point, clause))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._remove()
        if kind is not None:
            return isinstance(error, _Enough) and error.owner is self
        if silent := [str(point) for point in self._clauses if point not in self.values]:
            raise ContractError(
                f"{len(silent)} of {len(self._clauses)} points never fired during the forward",
                where=", ".join(f"{name} at {self._clauses[Point.parse(name)].module}" for name in silent[:4]),
                expected="every declared module to run once",
            )
        return False

    def _register(self, point: Point, clause: Clause) -> torch.utils.hooks.RemovableHandle:
        try:
            module = self._model.get_submodule(clause.module)
        except AttributeError as error:
            raise ContractError(
                f"point {point} names a module that the model does not have",
                where=clause.module,
                got=error,
                expected=f"one of {', '.join(name for name, _ in self._model.named_children())} …",
            ) from error
        calls = itertools.count()
        if clause.side == "input":

            def before(_: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
                if clause.call in (None, next(calls)):
                    self._record(point, first_input(point, args, kwargs))

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def after(_: nn.Module, args: tuple[object, ...], output: object) -> None:
            if clause.call in (None, next(calls)):
                self._record(point, select(point, output, clause.element))

        return module.register_forward_hook(after)

    def _record(self, point: Point, value: Tensor) -> None:
        clause = self._clauses[point]
        if point in self.values:
            raise ContractError(f"point {point} fired twice in one forward", where=clause.module, expected="one call per forward, or a clause that names the call")
        with torch.no_grad():
            kept = self._keep(point, folded(value.detach(), clause.fold))
            if kept.untyped_storage()._cdata == value.untyped_storage()._cdata:  # a view would keep, and later see, the model's own memory
                kept = kept.clone()
        self.values[point] = kept
        if self._stop and len(self.values) == len(self._clauses):
            raise _Enough(self)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def folded(value: Tensor, fold: int) -> Tensor:
    """(n, t, d) of a module's (n * fold, ..., d): each `fold` rows one after the other, and all middle axes, are positions."""
    return value.unflatten(0, (-1, fold)).flatten(1, -2)


def select(point: Point, output: object, element: int) -> Tensor:
    """The tensor of a module's output: the output itself, or `element` of a tuple or ModelOutput. Raises ContractError."""
    if isinstance(output, Tensor) and element == 0:
        return output  # indexing a bare tensor would silently take sample 0
    members = tuple(output.values()) if isinstance(output, Mapping) else output
    if isinstance(members, tuple | list) and element < len(members) and isinstance(members[element], Tensor):
        return members[element]
    raise ContractError(
        f"point {point} saw an output without a tensor at element {element}",
        got=_describe(output),
        expected="a tensor, or a tuple with a tensor at that element",
    )


def first_input(point: Point, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tensor:
    """The hidden states given to a module: its first argument, or `hidden_states=`, or the only tensor by keyword."""
    tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    named = [tensors[name] for name in ("hidden_states", "inputs_embeds", "input") if name in tensors]
    first = [*(value for value in args[:1] if isinstance(value, Tensor)), *named, *(tensors.values() if len(tensors) == 1 else [])]
    if not first:
        got = ", ".join([*map(_describe, args), *(f"{name}={_describe(value)}" for name, value in kwargs.items())])
        raise ContractError(f"point {point} cannot tell which input holds the hidden states", got=got or "no input", expected="a tensor first, or hidden_states=")
    return first[0]


def _describe(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(_describe(member) for member in value[:4])})"
    return f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
