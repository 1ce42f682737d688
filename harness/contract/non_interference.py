"""Does capture leave the model, its outputs and the random state exactly as they were?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapters import Adapter
from harness.errors import UnknownNameError
from harness.types import Measurement, Recording, Sample

__all__ = ["non_interference"]

ASPECTS = ("outputs", "actions", "hooks", "training", "gradients", "parameters", "random", "modes")


def non_interference(adapter: Adapter, recording: Recording, samples: Sequence[Sample], *, aspect: str) -> Measurement:
    """How many things of one aspect a capture of every point changed: 0 when it left no trace.

    `outputs` compares the model's outputs bitwise with those of the bare forward, `actions` the predicted actions before
    and after; the other aspects compare the adapter's own account of its state before and after a capture of every point.
    """
    if aspect not in ASPECTS:
        raise UnknownNameError("aspect", aspect, ASPECTS)
    if aspect == "outputs":
        bare, watched = adapter.forward(recording.batch), adapter.forward(recording.batch, adapter.clauses)
        changed = [name for name, value in bare.items() if not _same(value, watched[name])]
        return Measurement(len(changed), detail=f"of {len(bare)} outputs: {', '.join(changed) or 'none changed'}")
    if aspect == "actions":
        before = adapter.act(samples)
        adapter.record(samples)
        return Measurement(int((before != adapter.act(samples)).sum()), detail=f"of {before.size} numbers in {len(before)} predicted actions")
    before, after = recording.before[aspect], recording.after[aspect]
    if aspect == "training":  # an earlier capture may have left it on, so evaluation mode is the state to compare with
        before = [False] * len(after)
    pairs = zip(before, after, strict=True) if isinstance(before, list) else [(before, after)]
    changed = sum(old != new for old, new in pairs)
    return Measurement(changed, detail=f"{aspect} before and after capturing {len(adapter.clauses)} points")


def _same(x: object, y: object) -> bool:
    return bool((x == y).all())
