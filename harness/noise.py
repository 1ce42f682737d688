"""How far features move on this machine when nothing that matters changes: the unit in which drift is told."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, final

import numpy as np
from blake3 import blake3
from jaxtyping import Float

from harness import subjects
from harness.adapters import Adapter
from harness.checkpoints import canonical_digest
from harness.errors import UnknownNameError, UsageError
from harness.extract import feature_key, pooled
from harness.memo import Memo
from harness.readers import Dataset
from harness.sources import module_digest
from harness.types import Measurement, Point, Runtime, Sample, Subject

__all__ = ["AXES", "EQUAL", "Change", "Floor", "noise_floor", "relative_change"]

EQUAL = ("repeat", "batch", "padding", "kernel", "threads")  # what may differ between two runs that are called equal
AXES = (*EQUAL, "dtype")
ROUNDING = float(np.finfo(np.float32).eps)  # no floor of float32 features is below the rounding of one number
CONSTANT = 1e-6  # of the rows' own size: a spread below is rounding
LONGER, MOST = 4, 64  # times the words of the longest instruction, in the padding axis, but at most so many words more
Rows = Mapping[Point, np.ndarray]


class Change(NamedTuple):
    """A relative change of rows: `value` over all of them, `worst` of the sample that moved most; 0 is bitwise equal."""

    value: float
    worst: float


@final
@dataclass(frozen=True)
class Floor:
    """The noise of one subject on this machine: by point and axis, and why an axis is absent. `samples` is how many rows were compared."""

    subject: str
    samples: int
    changes: Mapping[Point, Mapping[str, Change]]
    absent: Mapping[str, str]
    detail: str = ""

    def of(self, point: Point | str) -> float:
        """The largest change at `point` over the axes that may differ between two equal runs; never below the rounding of a float32.

        The dtype axis is not among them: see `dtype`. Raises UnknownNameError for a point that was not measured.
        """
        return max([ROUNDING, *(change.value for axis, change in self._at(point).items() if axis in EQUAL)])

    def dtype(self, point: Point | str) -> Change | None:
        """The change at `point` under weights in bfloat16; None where that axis is absent. Raises UnknownNameError."""
        return self._at(point).get("dtype")

    def _at(self, point: Point | str) -> Mapping[str, Change]:
        if (named := Point.parse(point) if isinstance(point, str) else point) not in self.changes:
            raise UnknownNameError("point with a noise floor", str(named), map(str, self.changes), where=self.subject)
        return self.changes[named]


def relative_change(x: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "n d"]) -> Change:
    """How far rows moved, as a fraction of how far the reference's rows lie apart; 0 is equal, infinite for NaN or a reference of zeros.

    `value` is sqrt(mean over samples and features of (x - reference)^2) over sqrt(mean over samples and features of
    (reference - its mean over samples)^2), in float64; `worst` has the largest root mean square over features of one sample above. Rows that are all
    the same but for rounding (a class token before the first block) have no spread: below is then their own root mean square. Raises UsageError when shapes differ.
    """
    if x.shape != reference.shape:
        raise UsageError("rows of different shapes cannot be compared", got=x.shape, expected=reference.shape)
    left, right = x.astype(np.float64), reference.astype(np.float64)
    moved = ((left - right) ** 2).mean(1)
    if not np.isfinite(moved).all():
        return Change(float("inf"), float("inf"))
    spread, size = float(np.sqrt(((right - right.mean(0)) ** 2).mean())), float(np.sqrt((right**2).mean()))
    spread = spread if spread > CONSTANT * size else size
    value, worst = float(np.sqrt(moved.mean())), float(np.sqrt(moved.max()))
    if spread == 0:
        return Change(*(float("inf") if moved.any() else 0.0,) * 2)
    return Change(value / spread, worst / spread)


def noise_floor(
    subject: Subject,
    runtime: Runtime,
    samples: Sequence[Sample],
    points: Sequence[Point],
    *,
    axes: Sequence[str] = AXES,
    pooling: str = "mean",
    batch_size: int = 16,
    adapter: Callable[[], Adapter] | None = None,
    memo: Memo | None = None,
    again: bool = False,
    fault: str | None = None,
) -> Floor:
    """The `relative_change` of the pooled features of `samples` at every point, along every axis that the subject has.

    Against rows of batches of `batch_size`: `repeat` the same once more, `batch` one by one, `padding` beside a sample whose instruction is up
    to four times as long, `kernel` under the family's other attention kernel, `threads` with another number of them (one, or two where one
    is set), `dtype` with bfloat16 weights. An axis that makes no sense for the subject is absent, with the reason. The
    reference comes from `adapter()`, or is loaded. With `memo`, what was measured under the very same conditions is given back,
    unless `again`. Points are canonical, as `Adapter.resolve` gives them. Raises UnknownNameError for an axis, UsageError for fewer than two samples.
    """
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise UnknownNameError("axis of noise", unknown[0], AXES)
    if len(samples) < 2:
        raise UsageError("noise is told in units of the spread over samples", where=subject.id, got=f"{len(samples)} samples", expected="at least 2")
    conditions = _conditions(subject, runtime, samples, points, axes, pooling, batch_size, fault)
    if memo is not None and not again and (kept := memo.recall(conditions)) is not None:
        return _read(str(kept.value), kept.detail)
    setting = _Setting(adapter() if adapter else subjects.load(subject, runtime), tuple(samples), tuple(points), pooling, batch_size)
    reference = setting.rows()
    found = {axis: MEASURES[axis](setting) for axis in axes}
    rows = {axis: moved for axis, moved in found.items() if not isinstance(moved, str)}
    changes = {point: {axis: relative_change(moved[point], reference[point]) for axis, moved in rows.items()} for point in points}
    floor = Floor(subject.id, len(samples), changes, {axis: reason for axis, reason in found.items() if isinstance(reason, str)})
    if memo is not None:
        memo.keep(conditions, Measurement(_written(floor)))
    return floor


class _Setting(NamedTuple):
    """One loaded subject and what is taken from it, the same for all axes."""

    adapter: Adapter
    samples: tuple[Sample, ...]
    points: tuple[Point, ...]
    pooling: str
    batch_size: int

    def rows(self) -> Rows:
        return pooled(self.adapter, self.samples, self.points, pooling=self.pooling, batch_size=self.batch_size)

    def rows_under(self, **runtime: object) -> Rows | str:
        """Rows of the same weights loaded anew; the reason where the family refuses such a runtime."""
        try:
            other = subjects.load(self.adapter.subject, replace(self.adapter.runtime, **runtime))
        except UsageError as error:
            return error.what
        return self._replace(adapter=other).rows()


def _batch(setting: _Setting) -> Rows | str:
    return setting._replace(batch_size=1 if setting.batch_size > 1 else len(setting.samples)).rows()


def _padding(setting: _Setting) -> Rows | str:
    if "instruction" not in setting.adapter.inputs_used:
        return "no input of this model has a length of its own"
    if (limit := setting.adapter.prompt_limit) is not None:
        return f"every prompt is padded to {limit} tokens"
    words = max((sample.instruction for sample in setting.samples), key=len).split()
    longer = " ".join((words * LONGER)[: len(words) + MOST])
    together = (*setting.samples, replace(setting.samples[0], id="a much longer neighbour", instruction=longer))
    rows = setting._replace(samples=together, batch_size=len(together)).rows()
    return {point: values[:-1] for point, values in rows.items()}


def _kernel(setting: _Setting) -> Rows | str:
    own = setting.adapter.runtime.attention
    others = [kernel for kernel in setting.adapter.kernels if kernel != own]
    return setting.rows_under(attention=others[0]) if others else f"the family runs under one attention kernel only ({own})"


def _threads(setting: _Setting) -> Rows | str:
    if (device := setting.adapter.runtime.device) != "cpu":
        return f"it runs on {device}"
    inputs = setting.adapter.encode(setting.samples[:1]).inputs.values()
    if not all(type(value).__module__.partition(".")[0] == "torch" for value in inputs):
        return "the family does not compute in torch, the framework whose threads can be set while it runs"
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        return setting.rows()
    finally:
        torch.set_num_threads(before)


def _dtype(setting: _Setting) -> Rows | str:
    return "its weights are bfloat16 already" if setting.adapter.runtime.dtype == "bfloat16" else setting.rows_under(dtype="bfloat16")


MEASURES: Mapping[str, Callable[[_Setting], Rows | str]] = {
    "repeat": _Setting.rows,
    "batch": _batch,
    "padding": _padding,
    "kernel": _kernel,
    "threads": _threads,
    "dtype": _dtype,
}


def _conditions(
    subject: Subject,
    runtime: Runtime,
    samples: Sequence[Sample],
    points: Sequence[Point],
    axes: Sequence[str],
    pooling: str,
    batch_size: int,
    fault: str | None,
) -> dict[str, object]:
    """All that a floor depends on: what features depend on, the samples' content, this code and this machine."""
    dataset = Dataset("noise", canonical_digest([_content(sample) for sample in samples]), tuple(samples))
    return {
        "under": asdict(feature_key(subject, runtime, dataset, Point("every", "point"), pooling, fault)),
        "measurement": ["noise_floor", module_digest(__name__), batch_size, list(axes), list(map(str, points))],
        "machine": [platform.node(), platform.machine(), platform.processor(), os.cpu_count(), os.environ.get("OMP_NUM_THREADS")],
    }


def _content(sample: Sample) -> list[object]:
    arrays = [*sample.images.values(), *([] if sample.state is None else [sample.state])]
    return [sample.id, sample.instruction, *sample.images, *(blake3(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays)]


def _written(floor: Floor) -> str:
    changes = {str(point): {axis: list(change) for axis, change in found.items()} for point, found in floor.changes.items()}
    return json.dumps({"subject": floor.subject, "samples": floor.samples, "changes": changes, "absent": dict(floor.absent)})


def _read(text: str, detail: str) -> Floor:
    saved = json.loads(text)
    changes = {Point.parse(point): {axis: Change(*change) for axis, change in found.items()} for point, found in saved["changes"].items()}
    return Floor(saved["subject"], saved["samples"], changes, saved["absent"], detail)
