"""From samples to π0's inputs, and whether given inputs fit the network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.adapters._openpi_inputs import Tokenizer, letterboxed, prompt_ids
from harness.adapters._openpi_settings import Settings
from harness.adapters._openpi_sizes import Sizes
from harness.adapters._openpi_stats import Statistics
from harness.errors import UsageError
from harness.types import Sample

__all__ = ["Encoder", "require_fit"]


class Encoder(NamedTuple):
    """Everything that turns samples into inputs; `where` names the subject in errors, `bare` is a checkpoint without statistics."""

    sizes: Sizes
    settings: Settings
    statistics: Statistics | None
    tokenizer: Tokenizer
    where: str
    bare: bool

    def inputs(self, samples: Sequence[Sample], slots: Sequence[Mapping[str, np.ndarray]], noise_seed: int) -> dict[str, np.ndarray]:
        """Inputs under upstream's names, of samples and their pictures by slot; the noise is the same for every sample.

        Raises UsageError for a state of another width than the dataset's, and for a prompt that is too long.
        """
        if self.statistics is None and self.bare:
            warnings.warn(f"{self.where} has no normalisation statistics: states are taken as already normalised", stacklevel=3)
        size, longest, width = self.settings.image_size, self.settings.prompt_tokens, self.sizes.action_dim
        states = [self.state(sample) for sample in samples]
        prompts = [self.prompt(sample, state) for sample, state in zip(samples, states, strict=True)]
        absent = np.full((*size, 3), -1.0, np.float32)
        inputs: dict[str, np.ndarray] = {}
        for key in self.settings.image_keys:
            inputs[f"image.{key}"] = np.stack([letterboxed(views[key], size) if key in views else absent for views in slots])
            inputs[f"image_mask.{key}"] = np.array([key in views for views in slots])
        inputs["tokenized_prompt"] = np.array([ids + [0] * (longest - len(ids)) for ids in prompts], np.int32)
        inputs["tokenized_prompt_mask"] = np.arange(longest) < np.array([[len(ids)] for ids in prompts])
        inputs["state"] = np.stack([np.pad(state, (0, width - len(state))) for state in states]).astype(np.float32)
        noise = np.random.default_rng(noise_seed).standard_normal((self.settings.horizon, width), np.float32)
        return inputs | {"noise": np.repeat(noise[None], len(samples), axis=0)}

    def state(self, sample: Sample) -> np.ndarray:
        """The sample's state as the model's numbers, in the dataset's width; NaN for a sample without one, unless the prompt tells it."""
        if sample.state is None:
            if self.settings.discrete_state:
                raise UsageError(f"sample {sample.id!r} has no state, which is a part of this model's prompt", where=self.where)
            return np.full(self.sizes.action_dim, np.nan)
        state, named = np.asarray(sample.state, np.float64), f"{self.where}, sample {sample.id!r}"
        if state.ndim != 1 or not np.isfinite(state).all():
            raise UsageError("the state is no row of finite numbers", where=named, got=f"{state.shape} {state.ravel()[:8]}")
        if self.statistics is None:
            if len(state) > self.sizes.action_dim:
                expected = f"at most {self.sizes.action_dim} numbers"
                raise UsageError("the state is wider than the model", where=named, got=f"{len(state)} numbers", expected=expected)
            return state
        if len(state) != self.statistics.state_width:
            got, expected = f"{len(state)} numbers", f"{self.statistics.state_width} numbers"
            raise UsageError("the state has another width than the dataset's", where=named, got=got, expected=expected)
        return self.statistics.normalised(state)

    def prompt(self, sample: Sample, state: np.ndarray) -> list[int]:
        """Token ids, at most as many as the model takes: upstream would cut them in silence."""
        ids = prompt_ids(sample.instruction, state if self.settings.discrete_state else None, self.tokenizer)
        if len(ids) > (longest := self.settings.prompt_tokens):
            raise UsageError(
                "a prompt is longer than the model takes",
                where=f"{self.where}, sample {sample.id!r}",
                got=f"{len(ids)} tokens",
                expected=f"at most {longest}",
                next="shorten the instruction, or name the length it was trained with in options.max_token_len",
            )
        return ids


def require_fit(arrays: Mapping[str, np.ndarray], sizes: Sizes, settings: Settings, where: str) -> None:
    """Raises UsageError for inputs whose names or shapes do not belong together or to this network."""
    rows = len(arrays["state"]) if "state" in arrays and arrays["state"].ndim else 0
    length, horizon = (arrays[name].shape[1] if name in arrays and arrays[name].ndim > 1 else 0 for name in ("tokenized_prompt", "noise"))
    wanted = {f"image.{key}": (rows, *settings.image_size, 3) for key in settings.image_keys}
    wanted |= {f"image_mask.{key}": (rows,) for key in settings.image_keys}
    wanted |= dict.fromkeys(("tokenized_prompt", "tokenized_prompt_mask"), (rows, length))
    wanted |= {"state": (rows, sizes.action_dim), "noise": (rows, horizon, sizes.action_dim)}
    got = {name: x.shape for name, x in arrays.items() if name != "num_steps"}
    if got != wanted or not (rows and length and horizon):
        raise UsageError("model inputs do not fit", where=where, got=got, expected=wanted)
    ids = arrays["tokenized_prompt"]
    if ids.min() < 0 or ids.max() >= sizes.vocabulary:
        got, expected = f"{ids.min()} to {ids.max()}", f"0 to {sizes.vocabulary - 1}"
        raise UsageError("a prompt holds tokens that the model does not know", where=where, got=got, expected=expected)
