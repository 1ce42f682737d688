"""Does the adapter compute what upstream's own code computed from the same checkpoint and inputs?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from harness.adapters import Adapter
from harness.contract._compare import host
from harness.errors import ContractError, DamagedError, MissingError
from harness.types import Batch, Measurement, Point

__all__ = ["parity"]


def parity(adapter: Adapter, pack: Path, *, tensors: str = "*") -> Measurement:
    """Largest difference to upstream's tensors as a multiple of the pack's tolerance: at most 1 agrees.

    `tensors` is a pattern of expected names. Of each tensor only the positions count where the pack's `compare_on` mask is
    true. Raises MissingError without a pack, ContractError for an expected tensor that the adapter cannot name.
    """
    expected, inputs, description = _read(pack)
    batch = adapter.batch([f"{pack.name}-{row}" for row in range(len(inputs["input_ids"]))], inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values"])
    outputs = adapter.forward(batch)
    captured = adapter.capture(batch, adapter.clauses)
    mask = host(expected[description["compare_on"]]).astype(bool)
    worst, where, compared = 0.0, "", 0
    for name in (name for name in expected if fnmatchcase(name, tensors)):
        got, want = _named(name, outputs, captured, batch), host(expected[name])
        if got.shape != want.shape:
            raise ContractError(f"{name} has another shape than upstream's", where=pack, got=got.shape, expected=want.shape)
        atol, rtol = next((a, r) for pattern, a, r in description["tolerance"] if fnmatchcase(name, pattern))
        excess = np.abs(got - want) / (atol + rtol * np.abs(want))
        if want.shape[:2] == mask.shape:
            excess = excess[mask]
        compared += 1
        excess = np.nan_to_num(excess, nan=np.inf)
        if excess.max(initial=0.0) >= worst:
            worst, where = float(excess.max(initial=0.0)), name
    return Measurement(worst, detail=f"worst of {compared} tensors: {where}")


def _named(name: str, outputs: Mapping[str, object], captured: Mapping[Point, object], batch: Batch) -> np.ndarray:
    """The adapter's array for one of a pack's names (see the packs' README)."""
    kind, *rest = name.split(".")
    if kind == "layer":
        return host(captured[Point("lm", rest[1], int(rest[0]))])
    if name == "final_norm.output":
        return host(captured[Point("lm", "final_norm")])
    if name == "final_norm.input":
        return host(captured[max(point for point in captured if point.stack == "lm" and point.stream == "output")])
    if name == "attention_allowed":
        mask = host(batch.tokens["lm"].mask).astype(bool)
        return (np.tril(np.ones((mask.shape[1],) * 2, bool)) & mask[:, None, None, :]).astype(float)
    if name in outputs:
        return host(outputs[name])
    raise ContractError(f"the adapter has nothing that a pack calls {name!r}", expected=", ".join([*outputs, "layer.N.input", "layer.N.output", "final_norm.output"]))


def _read(pack: Path) -> tuple[dict, dict, dict]:
    from safetensors.torch import load_file

    if not (pack / "pack.json").is_file():
        raise MissingError("there is no parity pack here", where=pack, expected="pack.json, inputs.safetensors, expected.safetensors, checkpoint/")
    try:
        description = json.loads((pack / "pack.json").read_text(encoding="utf-8"))
        description["compare_on"], description["tolerance"]
    except (ValueError, KeyError) as error:
        raise DamagedError("a parity pack's description is not readable", where=pack / "pack.json", got=repr(error), expected="fields compare_on, tolerance") from error
    return load_file(pack / "expected.safetensors"), load_file(pack / "inputs.safetensors"), description
