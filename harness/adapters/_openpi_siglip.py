"""SigLIP as π0 runs it: pure functions of one layer's parameters and arrays (..., patches, width), leading axes free.

Patches and positions in float32, the blocks in the model's dtype, statistics of the norms in float32. A parameter tree is a flat
dictionary of leaves by their names within the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
from jax import Array
from jax import numpy as jnp

__all__ = ["EPS", "Seen", "block", "embed", "finish"]

EPS = 1e-6
Parameters = Mapping[str, Array]
einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Seen(NamedTuple):
    """The tower's normed output and its projection to the language model's width."""

    normed: Array
    projected: Array


@partial(jax.jit, static_argnames="dtype")
def embed(parameters: Parameters, images: Array, *, dtype: str) -> Array:
    """Patches (..., p, d) of pictures (..., h, w, 3) in [-1, 1], row by row, with their positions."""
    kernel = parameters["embedding/kernel"].astype(jnp.float32)
    rows, columns, channels, width = kernel.shape
    *lead, height, across, _ = images.shape
    tiles = images.astype(jnp.float32).reshape(*lead, height // rows, rows, across // columns, columns, channels)
    patches = einsum("...yixjc,ijcd->...yxd", tiles, kernel).reshape(*lead, -1, width)
    return (patches + parameters["embedding/bias"] + parameters["pos_embedding"][0]).astype(dtype)


@jax.jit
def block(parameters: Parameters, x: Array) -> Array:
    """One encoder block: attention among the patches of each picture, then the MLP, each on the normed residual."""
    x = x + attend(parameters, layer_norm(parameters, "LayerNorm_0", x))
    hidden = gelu(dense(parameters, "MlpBlock_0/Dense_0", layer_norm(parameters, "LayerNorm_1", x)))
    return x + dense(parameters, "MlpBlock_0/Dense_1", hidden)


@jax.jit
def finish(parameters: Parameters, x: Array) -> Seen:
    """The last norm and the head."""
    normed = layer_norm(parameters, "Transformer/encoder_norm", x)
    return Seen(normed, dense(parameters, "head", normed))


def attend(parameters: Parameters, x: Array) -> Array:
    query, key, value = (_heads(parameters, name, x) for name in ("query", "key", "value"))
    query = query / jnp.sqrt(query.shape[-1]).astype(x.dtype)
    weights = jax.nn.softmax(einsum("...qhd,...khd->...hqk", query, key), axis=-1)
    mixed = einsum("...hqk,...khd->...qhd", weights, value)
    kernel, bias = (parameters[f"MultiHeadDotProductAttention_0/out/{name}"].astype(x.dtype) for name in ("kernel", "bias"))
    return einsum("...qhd,hde->...qe", mixed, kernel) + bias


def _heads(parameters: Parameters, name: str, x: Array) -> Array:
    kernel, bias = (parameters[f"MultiHeadDotProductAttention_0/{name}/{part}"].astype(x.dtype) for part in ("kernel", "bias"))
    return einsum("...td,dhe->...the", x, kernel) + bias


def layer_norm(parameters: Parameters, name: str, x: Array) -> Array:
    """LayerNorm (Ba et al., 2016) as flax has it: variance as the mean of squares less the squared mean, in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.maximum(0.0, (wide * wide).mean(-1, keepdims=True) - mean * mean)
    normed = (wide - mean) * (jax.lax.rsqrt(variance + EPS) * parameters[f"{name}/scale"]) + parameters[f"{name}/bias"]
    return normed.astype(x.dtype)


def dense(parameters: Parameters, name: str, x: Array) -> Array:
    return einsum("...d,de->...e", x, parameters[f"{name}/kernel"].astype(x.dtype)) + parameters[f"{name}/bias"].astype(x.dtype)


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)
