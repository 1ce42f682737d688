"""Gemma's blocks as π0 runs them, for either expert: pure functions of one layer's parameters and arrays (n, t, d).

An expert's queries see the keys and values it is given first (those that the prefix left) and its own. Norms, rotation and softmax
are computed in float32 and cast back. Names of parameters are those within the layer, without the expert's suffix.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
from jax import Array
from jax import numpy as jnp

__all__ = ["EPS", "Layer", "Modulation", "block", "embed", "modulation", "norm", "normed"]

EPS = 1e-6
MASKED = -2.3819763e38  # finite: a query that may see nothing attends evenly to every key, padding included
LONGEST_WAVE = 10_000.0
Parameters = Mapping[str, Array]
einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Layer(NamedTuple):
    """What one block computes: residuals, its own keys (rotated) and values, and 1/rms before each of its norms (n, t, 1)."""

    post_attn: Array
    output: Array
    key: Array
    value: Array
    pre_attn_scale: Array
    pre_mlp_scale: Array


class Modulation(NamedTuple):
    """A norm's factor, and where it follows the denoise time (adaRMS) what is added and what scales the branch: (n, 1, d)."""

    factor: Array
    shift: Array | None = None
    gate: Array | None = None


@partial(jax.jit, static_argnames="dtype")
def embed(table: Array, ids: Array, *, dtype: str) -> Array:
    """Word vectors (n, t, d) of ids (n, t), times the root of their width; only words are scaled, never pictures."""
    return (table[ids] * jnp.sqrt(table.shape[1]).astype(table.dtype)).astype(dtype)


@jax.jit
def block(parameters: Parameters, x: Array, positions: Array, mask: Array, past: tuple[Array, Array] | None, time: Array | None) -> Layer:
    """One block over tokens (n, t, d) at `positions` (n, t); `mask` (n, t, s) says which of the past and own keys each may see."""
    before = modulation(parameters, "pre_attention_norm", time, x.dtype)
    attended, key, value = attend(parameters, normed(x, before), positions, mask, past)
    post = gated(x, attended, before)
    after = modulation(parameters, "pre_ffw_norm", time, x.dtype)
    output = gated(post, feed_forward(parameters, normed(post, after)), after)
    return Layer(post, output, key, value, inverse_rms(x), inverse_rms(post))


@partial(jax.jit, static_argnames="name")
def norm(parameters: Parameters, x: Array, time: Array | None, *, name: str) -> Array:
    """The RMSNorm `name` of `x`."""
    return normed(x, modulation(parameters, name, time, x.dtype))


def modulation(parameters: Parameters, name: str, time: Array | None, dtype: jnp.dtype) -> Modulation:
    """Factor, shift and gate of norm `name`: learned, or made of the time's embedding (n, d)."""
    if time is None:
        return Modulation(1 + parameters[f"{name}/scale"])
    kernel, bias = (parameters[f"{name}/Dense_0/{part}"].astype(dtype) for part in ("kernel", "bias"))
    made = einsum("nd,de->ne", time.astype(dtype), kernel) + bias
    scale, shift, gate = jnp.split(made[:, None, :], 3, axis=-1)
    return Modulation(1 + scale, shift, gate)


def normed(x: Array, by: Modulation) -> Array:
    """RMSNorm (Zhang and Sennrich, 2019, eq. 4), its factor one plus the learned scale."""
    scaled = x * inverse_rms(x) * by.factor
    return (scaled if by.shift is None else scaled + by.shift).astype(x.dtype)


def inverse_rms(x: Array) -> Array:
    """One over the root mean square of every token, (n, t, 1) float32."""
    return jnp.reciprocal(jnp.sqrt(jnp.square(x.astype(jnp.float32)).mean(-1, keepdims=True) + EPS))


def gated(x: Array, branch: Array, by: Modulation) -> Array:
    return x + branch if by.gate is None else x + branch * by.gate


def attend(
    parameters: Parameters, x: Array, positions: Array, mask: Array, past: tuple[Array, Array] | None
) -> tuple[Array, Array, Array]:
    """The attention's contribution (n, t, d), and the keys and values (n, t, k, h) of these tokens."""
    query, own_key, own_value = project(parameters, x)
    query = rotated(query, positions) * query.shape[-1] ** -0.5
    own_key = rotated(own_key, positions)
    own = (own_key, own_value)
    key, value = own if past is None else (jnp.concatenate(pair, axis=1) for pair in zip(past, own, strict=True))
    n, t, heads, width = query.shape
    grouped = query.reshape(n, t, key.shape[2], -1, width)
    logits = einsum("ntkgh,nskh->nkgts", grouped, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, MASKED), axis=-1).astype(x.dtype)
    mixed = einsum("nkgts,nskh->ntkgh", weights, value).reshape(n, t, heads, width)
    return einsum("ntmh,mhd->ntd", mixed, parameters["attn/attn_vec_einsum/w"].astype(x.dtype)), own_key, own_value


def project(parameters: Parameters, x: Array) -> tuple[Array, Array, Array]:
    """Queries (n, t, heads, h), keys and values (n, t, k, h), not yet rotated."""
    if "attn/qkv_einsum/w" in parameters:
        query, key, value = einsum("ntd,cmdh->cntmh", x, parameters["attn/qkv_einsum/w"].astype(x.dtype))
        return query, key, value
    key, value = einsum("ntd,ckdh->cntkh", x, parameters["attn/kv_einsum/w"].astype(x.dtype))
    return einsum("ntd,mdh->ntmh", x, parameters["attn/q_einsum/w"].astype(x.dtype)), key, value


def rotated(x: Array, positions: Array) -> Array:
    """Rotary positions (Su et al., 2021) over halves of each head, in float32, cast back."""
    half = x.shape[-1] // 2
    wave = LONGEST_WAVE ** ((2.0 / x.shape[-1]) * jnp.arange(half, dtype=jnp.float32))
    angle = (positions[..., None] / wave)[:, :, None, :]
    first, second = x[..., :half], x[..., half:]
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


def feed_forward(parameters: Parameters, x: Array) -> Array:
    gate, up = (einsum("ntd,df->ntf", x, parameters["mlp/gating_einsum"][index].astype(x.dtype)) for index in (0, 1))
    return einsum("ntf,fd->ntd", gelu(gate) * up, parameters["mlp/linear"].astype(x.dtype))


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)
