"""The robot's own state as a feature: no network and no weights, what every representation is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from harness.adapters._base import Adapter, Norm
from harness.errors import DamagedError, UsageError
from harness.types import Batch, Clause, Point, Runtime, Sample, Subject, TokenMap

__all__ = ["Proprio"]

STATE = Point("state", "output")


@final
class Proprio(Adapter):
    """One point, `state.output` (n, 1, d) float32: each sample's state as it is. Its card's `config.width` says d.

    On the runtime's device; dtype of weights and attention kernel have nothing to act on here.
    """

    inputs_used = ("state",)
    inputs_unused = ("images", "instruction")

    def __init__(self, subject: Subject, runtime: Runtime) -> None:
        width = subject.config.get("width")
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            where = f"card {subject.model}, field config.width"
            raise DamagedError("the card does not say how wide a state is", where=where, got=width, expected="a whole number of at least 1")
        self.subject, self.runtime = subject, runtime
        self._clauses = {STATE: Clause("", "output", width, "raw")}

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> Proprio:
        """Raises DamagedError for a card without a width."""
        return cls(subject, runtime)

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        """Never: there is no checkpoint."""
        return False

    @property
    def clauses(self) -> Mapping[Point, Clause]:
        return self._clauses

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Raises UsageError for a sample without a state, with one of another width than the card's, or with NaN or infinity in it."""
        self.require(samples)
        width = self._clauses[STATE].width
        states = [np.asarray(sample.state, np.float32) for sample in samples]
        for sample, state in zip(samples, states, strict=True):
            if state.shape != (width,):
                raise UsageError(
                    f"the state of sample {sample.id!r} has another shape",
                    where=self.subject.id,
                    got=state.shape,
                    expected=f"({width},), as config.width in the card says",
                )
            if not np.isfinite(state).all():
                raise UsageError(f"the state of sample {sample.id!r} holds NaN or infinity", where=self.subject.id, got=state.tolist())
        ones = torch.ones(len(samples), 1, dtype=torch.bool)
        inputs = {"state": torch.from_numpy(np.stack(states)).to(self.runtime.device)}
        return Batch(tuple(sample.id for sample in samples), inputs, {"state": TokenMap(ones, {"state": ones, "padding": ~ones})})

    def capture(self, batch: Batch, points: Iterable[Point], keep: Callable[[Point, Tensor], Tensor] | None = None) -> dict[Point, Tensor]:
        values = batch.inputs["state"][:, None, :]
        return {point: values.clone() if keep is None else keep(point, values) for point in map(self.resolve, points)}

    def forward(self, batch: Batch, points: Iterable[Point] = ()) -> dict[str, Tensor]:
        self.capture(batch, points)
        return {"state": batch.inputs["state"]}

    def state(self) -> dict[str, object]:
        return {"hooks": 0, "training": [], "gradients": [], "parameters": [], "random": torch.get_rng_state().tolist(), "modes": ()}

    def unlike_checkpoint(self) -> list[str]:
        return []

    def final_norm(self, point: Point) -> Norm:
        raise UsageError("a robot's state has no norm", where=self.subject.id, got=point)

    def framework_tuple(self, batch: Batch, stack: str) -> tuple[Tensor, ...]:
        raise UsageError("a robot's state has no hidden states", where=self.subject.id, got=stack)
