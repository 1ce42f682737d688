"""The frozen data types that every layer speaks: samples, subjects, points, token maps, activations, features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import total_ordering
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from harness.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Array",
    "Batch",
    "Broken",
    "Clause",
    "Episode",
    "Features",
    "Measurement",
    "Point",
    "Recording",
    "Runtime",
    "Sample",
    "Scale",
    "Subject",
    "TokenMap",
    "Value",
    "Weights",
]

Scale = Literal["mock", "abstract", "real", "random", "full", "checkpoint"]
Value = float | int | bool | str | list[int] | list[float]  # what a finding expects and a check measures
Array = Any  # numpy, torch and jax arrays share the operators used here but no importable base class

_POINT = re.compile(r"(?P<stack>[a-z][a-z0-9_]*)(?:\.t(?P<step>\d+))?(?:\.(?P<layer>-?\d+))?\.(?P<stream>[a-z][a-z0-9_]*)")


@total_ordering
@dataclass(frozen=True)
class Point:
    """A named place in a model: `lm.embedding`, `lm.05.output`, `lm.final_norm`, `expert.t03.05.output`.

    `layer` counts blocks from 0; negative counts from the end until an adapter resolves it. `step` is a denoise step.
    """

    stack: str
    stream: str
    layer: int | None = None
    step: int | None = None

    @classmethod
    def parse(cls, text: str) -> Point:
        """The point that `text` names; `lm.5.output` and `lm.05.output` are the same. Raises UsageError."""
        match = _POINT.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"{text!r} is not an extraction point",
                expected="stack.stream, stack.LAYER.stream or stack.tSTEP.LAYER.stream, such as lm.05.output or lm.final_norm",
                next="harness findings --points MODEL lists a model's points",
            )
        number = {key: None if match[key] is None else int(match[key]) for key in ("layer", "step")}
        return cls(match["stack"], match["stream"], number["layer"], number["step"])

    def __lt__(self, other: Point) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[str, int, int, str]:
        return (self.stack, -1 if self.step is None else self.step, -1 if self.layer is None else self.layer, self.stream)

    def __str__(self) -> str:
        step = [] if self.step is None else [f"t{self.step:02d}"]
        layer = [] if self.layer is None else [f"{self.layer:02d}"]
        return ".".join([self.stack, *step, *layer, self.stream])


@dataclass(frozen=True)
class Sample:
    """One observation. `images` are RGB uint8 (height, width, 3) by camera; `group` is what a split must not cut.

    `fields` is what else the record says of this step, such as the action's parts as the dataset names them, or success.
    """

    id: str
    instruction: str = ""
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    state: np.ndarray | None = None
    action: np.ndarray | None = None
    group: str = ""
    episode: str = ""
    step: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Broken:
    """A record that could not become a sample: the id that it would have had, and why. `left_out` ones are so by request."""

    id: str
    reason: str
    episode: str = ""
    left_out: bool = False


@dataclass(frozen=True)
class Episode:
    """One demonstration or rollout: its steps in order, the task's instruction, and whether the task was done (None: nobody knows)."""

    id: str
    instruction: str
    steps: Sequence[Sample]
    success: bool | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """Where a subject's weights come from: a directory in the family's format, or a seed, or nothing (`meta`)."""

    kind: Literal["random", "meta", "directory"]
    digest: str
    directory: Path | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Subject:
    """A model at one scale, ready to be loaded by the adapter of its family.

    `config` is the framework's configuration, `options` what the adapter adds to it (input size, prompt style),
    `documented` the sizes its source claims.
    """

    model: str
    scale: Scale
    family: str
    config: Mapping[str, Any]
    weights: Weights
    options: Mapping[str, Any] = field(default_factory=dict)
    documented: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None

    @property
    def id(self) -> str:
        return f"{self.model}:{self.scale}"


@dataclass(frozen=True)
class Runtime:
    """How a subject is run: device (`cpu`, `cuda`, `cuda:1`), dtype of the weights, attention kernel."""

    device: str = "cpu"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    attention: Literal["eager", "sdpa"] = "eager"

    @property
    def device_class(self) -> str:
        """What numerics depend on: `cpu`, or the accelerator's name. Shared by devices that must agree bitwise."""
        if self.device == "cpu":
            return "cpu"
        import torch

        return torch.cuda.get_device_name(self.device).replace(" ", "-").lower()


@dataclass(frozen=True)
class Clause:
    """What an adapter promises of one point: the module, the side, the place among the norms, the framework's index.

    `hidden_states_index` is the entry of the framework's own tuple that must equal the point, None if there is none.
    `norm` says where the point lies: `raw` residual stream, or `final` after the stack's last norm. `continues` is False
    for a block's input that is not the output of the block before it, because the model adds something in between.
    `call` counts the module's calls within one forward from 0 (denoise step 3 is call 3); None for a module that runs once.
    `fold` consecutive rows (the pictures of one sample) are one row of the point, their positions one after the other.
    """

    module: str
    side: Literal["input", "output"]
    width: int
    norm: Literal["raw", "final"]
    hidden_states_index: int | None = None
    element: int = 0
    phase: str = "prefill"
    continues: bool = True
    call: int | None = None
    fold: int = 1


@dataclass(frozen=True)
class TokenMap:
    """The meaning of every position in one stack's sequence: `mask` (n, t) of valid tokens, `spans` by name (n, t).

    Spans are disjoint; together with `padding` (the complement of the mask) they cover the sequence.
    """

    mask: Array
    spans: Mapping[str, Array]


@dataclass(frozen=True)
class Batch:
    """Encoded samples: the model's own inputs, and a token map for every stack they run through."""

    sample_ids: tuple[str, ...]
    inputs: Mapping[str, Array]
    tokens: Mapping[str, TokenMap]

    def with_inputs(self, **changed: Array) -> Batch:
        return replace(self, inputs={**self.inputs, **changed})


class Recording(NamedTuple):
    """One capture of every point of a batch, token-level (n, t, d) float32, with the model's state before and after it."""

    batch: Batch
    values: Mapping[Point, Array]
    before: Mapping[str, object]
    after: Mapping[str, object]


@dataclass(frozen=True)
class Features:
    """Rows `(n, d)` float32, one per sample id, and the store key that says where they came from."""

    values: np.ndarray
    sample_ids: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Measurement:
    """Today's value. `low` and `high` bound it; thresholds apply to the bound that makes the claim harder to hold."""

    value: Value
    low: float | None = None
    high: float | None = None
    detail: str = ""
    control: float | None = None


class Progress(Protocol):
    """Called with rows done, rows in all and a word on what is running."""

    def __call__(self, done: int, total: int, label: str) -> None: ...
