"""Statistics of a π0's dataset, wherever a layout keeps them: norm_stats.json, a saved normaliser, buffers, transformers' processor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.converters._pi0_files import read_json
from harness.errors import DamagedError, UnknownNameError, UsageError
from harness.layouts import tensors
from harness.layouts.tensors import Lazy

__all__ = ["Stats", "buffers", "find_stats", "norm_stats", "normaliser_documents", "normaliser_state", "processor"]

Stats = Mapping[str, Mapping[str, list[float]]]
"""`state` and `actions`, each with `mean` and `std` and perhaps `q01` and `q99`, in the dataset's own width."""
_VALUES = ("mean", "std", "q01", "q99")
_FEATURES = {"state": "observation.state", "actions": "action"}


def find_stats(directory: Path, layout: str, leftovers: Mapping[str, Lazy], asset: str | None) -> Stats | None:
    """The statistics that the checkpoint was trained with, None where its files have none.

    Raises UsageError when an openpi checkpoint has several and `asset` picks none, UnknownNameError, DamagedError.
    """
    if (directory / "assets").is_dir():
        return _of_assets(directory / "assets", asset)
    if layout == "pi0":
        saved = read_json(directory / "processor_config.json")
        found = {kind: {name: saved[f"{kind}_{name}"] for name in ("mean", "std") if saved.get(f"{kind}_{name}")} for kind in _FEATURES}
        return found if all(found.values()) else None
    named = {"state": "normalize_inputs.buffer_observation_state", "actions": "unnormalize_outputs.buffer_action"}
    stored = leftovers
    if files := sorted(directory.glob("policy_preprocessor_step_*_normalizer_processor.safetensors")):
        named, stored = _FEATURES, tensors.load(files[0])
    found = {kind: {name: _list(stored[at]) for name in _VALUES if (at := f"{stem}.{name}") in stored} for kind, stem in named.items()}
    return found if all({"mean", "std"} <= set(found[kind]) for kind in _FEATURES) else None


def norm_stats(stats: Stats) -> str:
    """openpi's `norm_stats.json` (shared/normalize.py)."""
    return json.dumps({"norm_stats": {kind: dict(values) for kind, values in stats.items()}}, indent=2)


def processor(stats: Stats | None) -> dict[str, Any]:
    """The fields of transformers' `PI0Processor`."""
    return {f"{kind}_{name}": list(stats[kind][name]) for kind in _FEATURES for name in ("mean", "std")} if stats else {}


def buffers(stats: Stats) -> dict[str, Lazy]:
    """lerobot's old buffers, float32."""
    stems = {"normalize_inputs.buffer_observation_state": "state", "normalize_targets.buffer_action": "actions", "unnormalize_outputs.buffer_action": "actions"}
    return {f"{stem}.{name}": Lazy.of(np.asarray(stats[kind][name], np.float32)) for stem, kind in stems.items() for name in ("mean", "std")}


def normaliser_state(stats: Stats) -> dict[str, Lazy]:
    """The state of lerobot's saved normaliser, float32."""
    return {f"{_FEATURES[kind]}.{name}": Lazy.of(np.asarray(value, np.float32)) for kind, values in stats.items() for name, value in values.items()}


def normaliser_documents(config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """lerobot's two pipelines as {file: (JSON, file of the normaliser's state)}.

    The steps are those of lerobot@7427f318 `processor_pi0.py` and `processor_pi05.py`, where the state is part of the prompt.
    """
    features = {**config["input_features"], **config["output_features"]}
    norm = {"eps": 1e-8, "features": features, "norm_map": config["normalization_mapping"]}
    padding = {"max_length": config["tokenizer_max_length"], "padding_side": "right", "padding": "max_length", "truncation": True}
    words = {"task_key": "task", "tokenizer_name": "google/paligemma-3b-pt-224", **padding}
    device = ("device_processor", {"device": "cpu", "float_dtype": None})
    normalise, tokenise = ("normalizer_processor", norm), ("tokenizer_processor", words)
    first = [("rename_observations_processor", {"rename_map": {}}), ("to_batch_processor", {})]
    in_prompt = ("pi05_prepare_state_tokenizer_processor_step", {"max_state_dim": config["max_state_dim"]})
    rest = [normalise, in_prompt, tokenise, device] if config["type"] == "pi05" else [("pi0_new_line_processor", {}), tokenise, device, normalise]
    after = [("unnormalizer_processor", norm | {"features": config["output_features"]}), device]
    return {f"{name}.json": _pipeline(name, steps) for name, steps in (("policy_preprocessor", first + rest), ("policy_postprocessor", after))}


def _pipeline(name: str, steps: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, str]:
    rows, state = [], ""
    for index, (which, how) in enumerate(steps):
        row: dict[str, Any] = {"registry_name": which, "config": how}
        if which.endswith("normalizer_processor"):
            state = row["state_file"] = f"{name}_step_{index}_{which}.safetensors"
        rows.append(row)
    return json.dumps({"name": name, "steps": rows}, indent=2) + "\n", state


def _of_assets(folder: Path, asset: str | None) -> Stats | None:
    files = {path.parent.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("norm_stats.json"))}
    if asset is not None and asset not in files:
        raise UnknownNameError("asset", asset, files, where=folder)
    if len(files) > 1 and asset is None:
        what, advice = "the checkpoint has statistics of several datasets", "harness convert … --asset NAME"
        raise UsageError(what, where=folder, got=", ".join(files), expected="one of them", next=advice)
    if not files:
        return None
    path = files[asset if asset is not None else next(iter(files))]
    try:
        found = read_json(path)["norm_stats"]
        return {kind: {name: [float(x) for x in found[kind][name]] for name in _VALUES if found[kind].get(name) is not None} for kind in _FEATURES}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = '{"norm_stats": {"state": {"mean": …, "std": …}, "actions": …}}'
        raise DamagedError("statistics that are not readable", where=path, got=repr(error), expected=expected) from error


def _list(tensor: Lazy) -> list[float]:
    return [float(x) for x in tensor.read().astype(np.float64).reshape(-1)]
