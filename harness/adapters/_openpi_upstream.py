"""A whole run of π0 under the names that upstream's own tensors have in the parity packs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax import Array
from jax import numpy as jnp

from harness.adapters import _openpi_gemma as gemma
from harness.adapters._openpi_sampler import Inputs, Network, begins, walk
from harness.types import Point

__all__ = ["named"]

NORMS = {"pre_attn_scale": "pre_attn_norm.inv_rms", "pre_mlp_scale": "pre_mlp_norm.inv_rms"}
NORMED = {"input": ("pre_attention_norm", "pre_attn_norm"), "post_attn": ("pre_ffw_norm", "pre_mlp_norm")}
STEPPED = {"x": "x_t", "time": "time", "tokens": "embedding", "time_condition": "adarms_cond", "velocity": "velocity"}


def named(network: Network, inputs: Inputs, image_keys: Sequence[str], *, steps: int) -> dict[str, np.ndarray]:
    """Every tensor of the prefix (`prefix.*`, `expert0.*`), of each step (`expert1.tS.*`), and `actions`, as numpy arrays."""
    found: dict[str, np.ndarray] = {}
    cache: dict[str, list[np.ndarray]] = {"key": [], "value": []}
    time: Array | None = None
    masks: dict[str, np.ndarray] = {}
    for name, value in walk(network, inputs, steps=steps):
        if isinstance(name, str):
            kind, _, rest = name.partition(".")
            time = value if kind == "time_condition" else time
            if kind == "layout":
                masks[rest] = _host(value)
            elif kind in cache:
                cache[kind].append(_host(value))
            else:
                found[f"expert1.t{int(rest)}.{STEPPED[kind]}" if kind in STEPPED else name] = _host(value)
        elif name == Point("projector", "output"):
            found |= {f"prefix.image.{key}": _host(value[:, index]) for index, key in enumerate(image_keys)}
        elif name.stack in ("lm", "expert"):
            found |= _block(network, name, value, time if name.stack == "expert" else None)
    found["prefix.ar_mask"] = np.zeros(found["prefix.pad_mask"].shape[1], bool)
    found |= {"expert0.kv_cache.k": np.stack(cache["key"]), "expert0.kv_cache.v": np.stack(cache["value"])}
    masks["ar_mask"] = np.asarray(begins(inputs.noise.shape[1], state=time is None))
    return found | {f"expert1.t{step}.{name}": mask for step in range(steps) for name, mask in masks.items()}


def _block(network: Network, point: Point, value: Array, time: Array | None) -> dict[str, np.ndarray]:
    expert = "expert0" if point.step is None else f"expert1.t{point.step}"
    if point.layer is None:
        return {f"{expert}.final_norm.output": _host(value)} if point.stream == "final_norm" else {}
    layer = f"{expert}.layer.{point.layer}"
    if point.stream in NORMS:
        return {f"{layer}.{NORMS[point.stream]}": _host(value)[..., 0]}
    named = {f"{layer}.{point.stream}": _host(value)}
    if point.stream in NORMED:
        own, theirs = NORMED[point.stream]
        parameters = (network.blocks if point.step is None else network.expert_blocks)[point.layer]
        named[f"{layer}.{theirs}.output"] = _host(gemma.norm(parameters, value, time, name=own))
    return named


def _host(value: Array) -> np.ndarray:
    return np.asarray(jnp.asarray(value).astype(jnp.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value)
