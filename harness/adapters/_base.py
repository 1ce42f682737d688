"""What every model family offers: load, encode, capture, forward, and a contract that checks can hold it to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from harness.errors import UnknownNameError, UsageError
from harness.types import Array, Batch, Clause, Point, Recording, Runtime, Sample, Subject

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Adapter", "Anatomy", "Norm"]


class Norm(NamedTuple):
    """A stack's last norm as numbers: `rms` or `layer`, weight and bias (d,) or one for each sample (n, 1, d), epsilon inside the root."""

    kind: Literal["rms", "layer"]
    weight: Array
    bias: Array | None
    eps: float


class Anatomy(NamedTuple):
    """What a family wants of a checkpoint: shape of every tensor by its published name, and a pattern for each part.

    `parts` maps `vision`, `language`, `action head` ... to a regular expression of published names, first match wins;
    `ignored` matches tensors that a checkpoint may bring and the family does not use.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parts: Mapping[str, str]
    ignored: str = r"(?!)"


class Adapter(ABC):
    """One model family. Concrete classes are final and live one to a module.

    `inputs_used` and `inputs_unused` name the sample fields that must, and must not, move the features. `inputs_late` maps a field
    to the only stack that it reaches: samples may lack it where no point of that stack is asked for, and are encoded with NaN in its
    place. `kernels` names the attention kernels that keep the model's arithmetic.
    """

    inputs_used: ClassVar[tuple[str, ...]]
    inputs_unused: ClassVar[tuple[str, ...]] = ()
    inputs_late: ClassVar[Mapping[str, str]] = {}
    kernels: ClassVar[tuple[str, ...]] = ("eager", "sdpa")

    subject: Subject
    runtime: Runtime

    @classmethod
    @abstractmethod
    def load(cls, subject: Subject, runtime: Runtime) -> Adapter:
        """The model of `subject`, in evaluation mode. Raises DamagedError when weights are missing or left over."""

    @classmethod
    @abstractmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        """Whether a checkpoint with this parsed `config.json` is of this family."""

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        """What this family wants of the checkpoint whose configuration is in `directory`; no weight is read."""
        raise UsageError(f"{cls.__name__} has no published checkpoint format to compare with", where=directory)

    @property
    @abstractmethod
    def clauses(self) -> Mapping[Point, Clause]:
        """The contract: every extraction point of this model with what is promised of it."""

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Model inputs on the runtime's device, right-padded, with token maps. Raises UsageError for unfit samples."""

    def batch(self, inputs: Mapping[str, Array], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch of model inputs with the names and shapes that upstream's own processor gives them."""
        raise UsageError("this family has no upstream processor to take inputs from", where=self.subject.id, next="encode(samples)")

    def upstream(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All that upstream's own code computes from such inputs, by the names of the parity packs."""
        raise UsageError("this family has no upstream tensors to be compared with", where=self.subject.id)

    def act(self, samples: Sequence[Sample]) -> np.ndarray:
        """The predicted action of every sample (n, ...), each on its own, in the units of its dataset; greedy, no noise."""
        raise UsageError("this family predicts no actions", where=self.subject.id)

    def decode(self, token_ids: Sequence[int], unnorm_key: str | None = None, processor: Mapping[str, object] | None = None) -> np.ndarray:
        """The action (steps, a) or (a,) that action tokens stand for, in the units of dataset `unnorm_key`.

        `processor` holds the fields of upstream's saved processor where the checkpoint came without it.
        """
        raise UsageError("this family has no action tokens", where=self.subject.id)

    @abstractmethod
    def capture(self, batch: Batch, points: Iterable[Point], keep: Callable[[Point, Array], Array] | None = None) -> dict[Point, Array]:
        """The given points during one forward: (n, t, d) float32, or what `keep` makes of them on the device.

        A family that compiles its network may run a `pooling.Pooler` inside the program; any other `keep` sees values, not traces.
        """

    @abstractmethod
    def forward(self, batch: Batch, points: Iterable[Point] = ()) -> dict[str, Array]:
        """The model's own named outputs; with `points`, those of a whole forward under capture (the values are dropped)."""

    @abstractmethod
    def state(self) -> dict[str, object]:
        """All that capture must leave alone: hook counts, training flags, gradients, parameter versions, random state."""

    @abstractmethod
    def unlike_checkpoint(self) -> list[str]:
        """Names of parameters whose values are not those of the checkpoint's files; empty when all were loaded."""

    def parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every weight by its name, which starts with a clause's module, as float32 on the host; one at a time, always in the same order."""
        raise UsageError("this family has no weights that can be listed", where=self.subject.id)

    @abstractmethod
    def final_norm(self, point: Point) -> Norm:
        """The norm whose output a `final_norm` point is."""

    @abstractmethod
    def framework_tuple(self, batch: Batch, stack: str) -> tuple[Array, ...]:
        """The framework's own `hidden_states` of a stack, from a copy, as clauses index them."""

    def record(self, samples: Sequence[Sample]) -> Recording:
        """Every point of one batch of samples, captured in one forward, with the model's state before and after."""
        batch = self.encode(samples)
        before = self.state()
        values = self.capture(batch, self.clauses)
        return Recording(batch, values, before, self.state())

    def resolve(self, point: Point | str) -> Point:
        """The point in canonical form, negative layers counted from the end. Raises UnknownNameError."""
        point = Point.parse(point) if isinstance(point, str) else point
        if point.layer is not None and point.layer < 0:
            depth = 1 + max((known.layer for known in self.clauses if known.stack == point.stack and known.layer is not None), default=-1)
            point = Point(point.stack, point.stream, point.layer + depth, point.step)
        if point not in self.clauses:
            raise UnknownNameError("extraction point", str(point), map(str, self.clauses), where=self.subject.id)
        return point

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras the model sees, in its own order: span `image.0` is the first one's."""
        return tuple(self.subject.options.get("cameras", ("primary",)))

    def pictures(self, sample: Sample) -> list[np.ndarray]:
        """One picture for every camera of the model, whatever their order in the sample.

        A model with one camera takes a sample's only picture under any name. Raises UsageError for a missing camera.
        """
        if len(self.cameras) == len(sample.images) == 1:
            return list(sample.images.values())
        if lacking := [name for name in self.cameras if name not in sample.images]:
            raise UsageError(
                f"sample {sample.id!r} has no camera {', '.join(lacking)}",
                where=self.subject.id,
                got=", ".join(sample.images) or "no image",
                expected=", ".join(self.cameras),
                next="name the cameras in the model card's options.cameras",
            )
        return [sample.images[name] for name in self.cameras]

    @property
    def state_width(self) -> int | None:
        """How many numbers of robot state the model takes, as the dataset has them; None when it takes any or none."""
        return None

    @property
    def prompt_limit(self) -> int | None:
        """How many tokens a prompt may have at most; None when the model has no limit of its own."""
        return None

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Height and width in pixels of the pictures that the network sees, resized or not; None when a family does not say."""
        return None

    def stacks(self) -> tuple[str, ...]:
        """Names of the stacks that run once in a forward and have a `final_norm` point."""
        return tuple(point.stack for point in self.clauses if point.stream == "final_norm" and point.step is None)

    def require(self, samples: Sequence[Sample]) -> None:
        """Raises UsageError when there is no sample, or one lacks an input that this family uses everywhere."""
        if not samples:
            raise UsageError("there is no sample to encode", where=self.subject.id, expected="at least one")
        for sample in samples:
            for name in (name for name in self.inputs_used if name not in self.inputs_late):
                value = getattr(sample, name)
                if value is None or not (value.strip() if isinstance(value, str) else len(value)):
                    raise UsageError(
                        f"sample {sample.id!r} has no {name.removesuffix('s')}",
                        where=self.subject.id,
                        expected=f"every sample to carry: {', '.join(self.inputs_used)}",
                    )

    def require_late(self, batch: Batch, points: Iterable[Point]) -> None:
        """Raises UsageError when a point is asked for that an input, which a sample of the batch lacks, would reach."""
        reached = {point.stack for point in points}
        for name, stack in self.inputs_late.items():
            x = batch.inputs[name]
            if stack in reached and self.subject.weights.kind != "meta" and bool((x != x).any()):
                next = f"read the dataset's {name}, or ask for points of {', '.join(self.stacks())} only"
                raise UsageError(f"a sample has no {name}, which reaches every point of {stack!r}", where=self.subject.id, expected=f"a {name} for every sample", next=next)
