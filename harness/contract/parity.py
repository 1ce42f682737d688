"""Does the adapter compute what upstream's own code computed from the same checkpoint and inputs?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from harness.adapters import Adapter
from harness.contract._compare import host
from harness.errors import ContractError, DamagedError, MissingError, UnknownNameError
from harness.types import Array, Measurement

__all__ = ["parity"]


def parity(adapter: Adapter, pack: Path, *, tensors: str = "*") -> Measurement:
    """Largest difference to upstream's tensors as a multiple of the pack's tolerance: at most 1 agrees.

    `tensors` is a pattern of expected names. Of each tensor only the positions count where the pack's `compare_on` mask is
    true. Raises MissingError without a pack, ContractError for an expected tensor that the adapter cannot name.
    """
    expected, inputs, description = _read(pack)
    named = adapter.upstream(inputs)
    worst, where, compared = 0.0, "", 0
    for name in (name for name in expected if fnmatchcase(name, tensors)):
        if name not in named:
            raise ContractError(f"the adapter has nothing that upstream calls {name!r}", where=pack, expected=", ".join(named))
        got, want = host(named[name]), host(expected[name])
        if got.shape != want.shape:
            raise ContractError(f"{name} has another shape than upstream's", where=pack, got=got.shape, expected=want.shape)
        atol, rtol = next((a, r) for pattern, a, r in description["tolerance"] if fnmatchcase(name, pattern))
        excess = np.nan_to_num(np.abs(got - want) / (atol + rtol * np.abs(want)), nan=np.inf)
        mask = _mask(name, expected, description["compare_on"])
        if mask is not None and want.shape[: mask.ndim] == mask.shape:
            excess = excess[mask]
        compared += 1
        if excess.max(initial=0.0) >= worst:
            worst, where = float(excess.max(initial=0.0)), name
    if not compared:
        raise UnknownNameError("expected tensor", tensors, expected, where=pack)
    return Measurement(worst, detail=f"worst of {compared} tensors: {where}")


def _mask(name: str, expected: Mapping[str, object], compare_on: str) -> np.ndarray | None:
    """The mask of valid positions that stands beside `name`: `rollout.0.X` has `rollout.0.<compare_on>`, if any."""
    beside = [key for key in expected if key.endswith(compare_on) and name.startswith(key.removesuffix(compare_on))]
    return host(expected[max(beside, key=len)]).astype(bool) if beside else None


def _read(pack: Path) -> tuple[dict, dict, dict]:
    """A pack's expected tensors, its inputs and its description. Raises MissingError, DamagedError."""
    if not (pack / "pack.json").is_file():
        raise MissingError("there is no parity pack here", where=pack, expected="pack.json, inputs and expected (.safetensors or .npz), checkpoint/")
    try:
        description = json.loads((pack / "pack.json").read_text(encoding="utf-8"))
        description["compare_on"], description["tolerance"]
    except (ValueError, KeyError) as error:
        raise DamagedError("a parity pack's description is not readable", where=pack / "pack.json", got=repr(error), expected="fields compare_on, tolerance") from error
    return _arrays(pack / "expected"), _arrays(pack / "inputs"), description


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of `path`.npz or of `path`.safetensors, those as torch tensors."""
    from safetensors.torch import load_file

    if (packed := path.with_suffix(".npz")).is_file():
        with np.load(packed, allow_pickle=False) as file:
            return dict(file)
    return load_file(path.with_suffix(".safetensors"))
