"""Statistics that a lerobot policy normalises its state with, and un-normalises its actions: buffers of old, processor files today.

Sources: lerobot 71eff183f, `policies/normalize.py:130-260` (old); 7427f318, `processor/normalize_processor.py:300-420` (new).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.adapters._lerobot_config import ACTION, STATE, PI0Config
from harness.adapters._weights import read_json, refuse, sound
from harness.errors import DamagedError, MissingError, UsageError

__all__ = ["Scaling", "Statistics", "buffer_statistics", "processor_statistics"]

MODES = {"MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
BUFFERS = {STATE: "normalize_inputs.buffer_observation_state.", ACTION: "unnormalize_outputs.buffer_action."}
STEPS = {STATE: ("policy_preprocessor.json", "normalizer_processor"), ACTION: ("policy_postprocessor.json", "unnormalizer_processor")}


@dataclass(frozen=True)
class Scaling:
    """One feature's normalisation: by mean and standard deviation, or from [low, high] to [-1, 1]. `old` adds `eps` to every span."""

    mode: str
    low: Tensor
    high: Tensor
    eps: float
    old: bool

    def normalise(self, x: Tensor) -> Tensor:
        if self.mode == "MEAN_STD":
            return (x - self.low) / (self.high + self.eps)
        return 2 * (x - self.low) / self._span(added=self.eps if self.old else 0.0) - 1

    def restore(self, x: Tensor) -> Tensor:
        return x * self.high + self.low if self.mode == "MEAN_STD" else (x + 1) / 2 * self._span(added=0.0) + self.low

    def _span(self, *, added: float) -> Tensor:
        span = self.high - self.low + added
        return span if self.old else torch.where(span == 0, self.eps, span)


class Statistics(NamedTuple):
    """Scaling of the state and of the actions, None where there is none; `known` names the features that the checkpoint speaks of.

    A known feature without scaling has the dataset's own numbers; of an unknown one the checkpoint never had statistics.
    """

    state: Scaling | None = None
    action: Scaling | None = None
    known: frozenset[str] = frozenset()


def buffer_statistics(buffers: Mapping[str, Tensor], config: PI0Config, where: object) -> Statistics:
    """The old layout's, from the buffers of its weight file; unknown without any, DamagedError with only some of them."""
    if not buffers:
        return Statistics()
    found, wanted = {}, {}
    for feature, prefix in BUFFERS.items():
        if (mode := _mode(feature, config.normalisation, where)) is not None:
            names = [prefix + part for part in MODES[mode]]
            wanted |= dict.fromkeys(names, feature)
            if all(name in buffers for name in names):
                found[feature] = _scaling(mode, *(buffers[name] for name in names), feature, config, 1e-8, where)
    refuse("statistics missing from the checkpoint", sorted(wanted.keys() - buffers), where)
    refuse("statistics that the configuration does not ask for", sorted(buffers.keys() - wanted), where)
    return Statistics(found.get(STATE), found.get(ACTION), frozenset(BUFFERS))


def processor_statistics(directory: Path, config: PI0Config) -> Statistics:
    """The new layout's, from the policy's pre- and postprocessor; of actions from the former where the latter is not there.

    Raises MissingError for a file that is named and absent, DamagedError for one without what its step asks for.
    """
    found: dict[str, Scaling | None] = {}
    for feature in (STATE, ACTION):
        file, registered = STEPS[feature if (directory / STEPS[feature][0]).is_file() else STATE]
        path = directory / file
        step = _step(read_json(path), registered, path) if path.is_file() else None
        if step is not None and step.get("state_file") and feature in step.get("config", {}).get("features", {}):
            found[feature] = _from_step(step, feature, config, path)
    return Statistics(found.get(STATE), found.get(ACTION), frozenset(found))


def _step(processor: Mapping[str, Any], registered: str, path: Path) -> Mapping[str, Any] | None:
    steps = processor.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        expected = '"steps": [{"registry_name": ..., "config": ..., "state_file": ...}]'
        raise DamagedError("a processor without steps", where=path, got=sorted(processor), expected=expected)
    return next((step for step in steps if step.get("registry_name") == registered), None)


def _from_step(step: Mapping[str, Any], feature: str, config: PI0Config, path: Path) -> Scaling | None:
    settings = step["config"]
    file = path.parent / Path(str(step["state_file"])).name
    if not file.is_file():
        got, next = f"named by {path.name}", "download the whole checkpoint folder"
        raise MissingError("the statistics that a processor names are not there", where=file, got=got, expected="a safetensors file", next=next)
    mode = _mode(feature, settings.get("norm_map", config.normalisation), path)
    if mode is None:
        return None
    names = [f"{feature}.{part}" for part in MODES[mode]]
    try:
        with safe_open(file, framework="pt") as stored:
            refuse("statistics missing from their file", sorted(set(names) - set(stored.keys())), file)
            tensors = [sound(stored.get_tensor(name), name, file, torch.float32) for name in names]
    except SafetensorError as error:
        raise DamagedError("truncated or malformed safetensors file", where=file, got=error, next="download it again") from error
    return _scaling(mode, *tensors, feature, config, float(settings.get("eps", 1e-8)), file)


def _mode(feature: str, modes: Mapping[str, str], where: object) -> str | None:
    mode = modes.get("STATE" if feature == STATE else "ACTION", "IDENTITY")
    if mode != "IDENTITY" and mode not in MODES:
        raise UsageError("an unknown kind of normalisation", where=where, got=mode, expected=", ".join(["IDENTITY", *MODES]))
    return None if mode == "IDENTITY" else mode


def _scaling(mode: str, low: Tensor, high: Tensor, feature: str, config: PI0Config, eps: float, where: object) -> Scaling:
    width = config.state_width if feature == STATE else config.action_width
    most = config.max_state if feature == STATE else config.max_action
    if low.shape != high.shape or low.ndim != 1 or len(low) != (width or len(low)) or len(low) > most:
        got, expected = (tuple(low.shape), tuple(high.shape)), (width or f"up to {most}",)
        raise DamagedError(f"statistics of {feature} do not fit", where=where, got=got, expected=expected)
    return Scaling(mode, low.cpu(), high.cpu(), eps, config.old)
