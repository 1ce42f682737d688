"""π0's flow: the prefix once, then Euler steps of the action expert from noise to actions, one compiled block after the other.

`walk` names everything it computes as it goes and holds nothing of it; `sample` and `kept` are the same as one program each. Time runs from 1 (noise) to 0 (data), accumulated in float32 as upstream's loop does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from harness.adapters import _openpi_gemma as gemma
from harness.adapters import _openpi_siglip as siglip
from harness.pooling import Pooler
from harness.types import Point

__all__ = ["Inputs", "Network", "clock", "kept", "sample", "time_condition", "walk"]

SHORTEST, LONGEST = 4e-3, 4.0  # periods of the time's embedding
Parameters = Mapping[str, Array]


class Network(NamedTuple):
    """π0's parameters, every layer's on its own: a flat dictionary by names within the layer. A pytree."""

    eye: Parameters
    eye_blocks: tuple[Parameters, ...]
    table: Array
    blocks: tuple[Parameters, ...]
    last: Parameters
    expert_blocks: tuple[Parameters, ...]
    expert_last: Parameters
    actions: Parameters


class Inputs(NamedTuple):
    """Pictures (n, c, h, w, 3) in [-1, 1], which of them are there (n, c), prompt (n, t), state (n, a), noise (n, horizon, a)."""

    images: Array
    image_mask: Array
    prompt: Array
    prompt_mask: Array
    state: Array
    noise: Array


class Layout(NamedTuple):
    """Valid tokens (n, t), which keys each token may see (n, t, s), and rotary positions (n, t)."""

    valid: Array
    mask: Array
    positions: Array


class Suffix(NamedTuple):
    """The expert's tokens (n, t, d), and for π0.5 the time's embedding (n, d) that its norms follow."""

    tokens: Array
    time: Array | None


class Stepped(NamedTuple):
    """The velocity at a time, and the actions one step nearer to the data."""

    velocity: Array
    actions: Array


@partial(jax.jit, static_argnames="steps")
def sample(network: Network, inputs: Inputs, *, steps: int) -> Array:
    """Normalised actions (n, horizon, a) after `steps` Euler steps, as one program."""
    return next(value for name, value in walk(network, inputs, steps=steps) if name == "actions")


@partial(jax.jit, static_argnames=("steps", "wanted"))
def kept(network: Network, inputs: Inputs, pooler: Pooler | None, *, steps: int, wanted: frozenset[Point]) -> dict[Point, Array]:
    """The wanted points as float32 (n, t, d), or as the rows the pooler makes of them: one program, cut behind its last point."""
    found: dict[Point, Array] = {}
    for name, value in walk(network, inputs, steps=steps):
        if name in wanted:
            tokens = value.astype(jnp.float32).reshape(len(value), -1, value.shape[-1])
            found[name] = tokens if pooler is None else pooler(name, tokens)
        if len(found) == len(wanted):
            break
    return found


def walk(network: Network, inputs: Inputs, *, steps: int) -> Iterator[tuple[Point | str, Array]]:
    """Everything the network computes with its name, in order; a consumer that stops early saves the rest.

    Points as in the contract; by plain names the keys and values of `lm`, masks, positions, times, velocities and `actions`.
    """
    dtype = network.table.dtype.name
    x = siglip.embed(network.eye, inputs.images, dtype=dtype)
    yield Point("vision", "embedding"), x
    for index, parameters in enumerate(network.eye_blocks):
        yield Point("vision", "input", index), x
        x = siglip.block(parameters, x)
        yield Point("vision", "output", index), x
    seen = siglip.finish(network.eye, x)
    yield Point("vision", "final_norm"), seen.normed
    yield Point("projector", "output"), seen.projected

    x = join(seen.projected, gemma.embed(network.table, inputs.prompt, dtype=dtype))
    layout = prefix_layout(inputs.image_mask, inputs.prompt_mask, patches=seen.projected.shape[2])
    del seen
    yield from zip(("prefix.embedding", "prefix.pad_mask", "prefix.attn_mask", "prefix.positions"), (x, *_ordered(layout)), strict=True)
    yield Point("lm", "embedding"), x
    past = []
    for index, parameters in enumerate(network.blocks):
        layer = gemma.block(parameters, x, layout.positions, layout.mask, None, None)
        yield from _block_points(Point("lm", "input", index), x, layer)
        yield f"key.{index:02d}", layer.key
        yield f"value.{index:02d}", layer.value
        past.append((layer.key, layer.value))
        x = layer.output
        del layer
    yield Point("lm", "final_norm"), gemma.norm(network.last, x, None, name="final_norm")

    pi05 = "time_mlp_in/kernel" in network.actions
    layout = suffix_layout(layout.valid, horizon=inputs.noise.shape[1], state=not pi05)
    yield from zip(("layout.pad_mask", "layout.attn_mask", "layout.positions"), _ordered(layout), strict=True)
    actions = inputs.noise
    for step, time in enumerate(clock(steps)):
        suffix = embed_suffix(network.actions, inputs.state, actions, time)
        x = suffix.tokens.astype(dtype)
        yield from {f"x.{step:02d}": actions, f"time.{step:02d}": time, f"tokens.{step:02d}": suffix.tokens}.items()
        if suffix.time is not None:
            yield f"time_condition.{step:02d}", suffix.time
        yield Point("expert", "embedding", step=step), x
        for index, parameters in enumerate(network.expert_blocks):
            layer = gemma.block(parameters, x, layout.positions, layout.mask, past[index], suffix.time)
            yield from _block_points(Point("expert", "input", index, step), x, layer)
            x = layer.output
            del layer
        x = gemma.norm(network.expert_last, x, suffix.time, name="final_norm")
        yield Point("expert", "final_norm", step=step), x
        stepped = advance(network.actions, x, actions, step_size(steps))
        yield f"velocity.{step:02d}", stepped.velocity
        actions = stepped.actions
    yield "actions", actions


def _ordered(layout: Layout) -> tuple[Array, Array, Array]:
    return layout.valid, layout.mask, layout.positions


def _block_points(at: Point, x: Array, layer: gemma.Layer) -> Iterator[tuple[Point, Array]]:
    before, after = {"pre_attn_scale": layer.pre_attn_scale, "input": x}, {"post_attn": layer.post_attn, "output": layer.output}
    for stream, value in {**before, "pre_mlp_scale": layer.pre_mlp_scale, **after}.items():
        yield Point(at.stack, stream, at.layer, at.step), value


def step_size(steps: int) -> float:
    return -1.0 / steps


def clock(steps: int) -> list[np.float32]:
    """The time at the beginning of every step: 1, 1 - 1/steps, ... in float32."""
    times = [np.float32(1.0)]
    while len(times) < steps:
        times.append(times[-1] + np.float32(step_size(steps)))
    return times


@jax.jit
def join(images: Array, words: Array) -> Array:
    """The prefix (n, t, d): the pictures of camera 0, 1, ... and then the words."""
    return jnp.concatenate([images.reshape(len(images), -1, images.shape[-1]), words], axis=1)


@partial(jax.jit, static_argnames="patches")
def prefix_layout(image_mask: Array, prompt_mask: Array, *, patches: int) -> Layout:
    """Every valid token sees every valid token; padding keeps its place in the sequence but consumes no position."""
    valid = jnp.concatenate([jnp.repeat(image_mask, patches, axis=1), prompt_mask], axis=1)
    return Layout(valid, visible(valid, jnp.zeros(valid.shape[1], bool)), jnp.cumsum(valid, axis=1) - 1)


@partial(jax.jit, static_argnames=("horizon", "state"))
def suffix_layout(prefix: Array, *, horizon: int, state: bool) -> Layout:
    """The state sees the prefix and itself, actions see all; positions go on after the prefix's valid tokens."""
    starts = begins(horizon, state=state)
    valid = jnp.ones((len(prefix), len(starts)), bool)
    own, before = visible(valid, starts), jnp.broadcast_to(prefix[:, None, :], (len(prefix), len(starts), prefix.shape[1]))
    return Layout(valid, jnp.concatenate([before, own], axis=2), prefix.sum(1)[:, None] + jnp.cumsum(valid, axis=1) - 1)


def begins(horizon: int, *, state: bool) -> Array:
    """Where a group of suffix tokens begins that earlier ones do not see: at the state, and at the first action."""
    return jnp.array([*([True] if state else []), True, *[False] * (horizon - 1)])


def visible(valid: Array, starts: Array) -> Array:
    """Which tokens (n, t, s) each token may see: valid ones of its own group and of those before."""
    group = jnp.cumsum(starts)
    return (group[None, None, :] <= group[None, :, None]) & valid[:, None, :] & valid[:, :, None]


@jax.jit
def embed_suffix(parameters: Parameters, state: Array, actions: Array, time: Array) -> Suffix:
    """The state's token (π0) and one for every action; π0 mixes the time into the actions, π0.5 into the norms."""
    tokens = linear(parameters, "action_in_proj", actions)
    moment = jnp.broadcast_to(time, (len(actions),))
    if "time_mlp_in/kernel" in parameters:
        return Suffix(tokens, time_condition(parameters, moment))
    waves = jnp.broadcast_to(time_waves(moment, tokens.shape[-1])[:, None, :], tokens.shape)
    mixed = jax.nn.swish(linear(parameters, "action_time_mlp_in", mixture(tokens, waves)))
    tokens = linear(parameters, "action_time_mlp_out", mixed)
    return Suffix(jnp.concatenate([linear(parameters, "state_proj", state)[:, None, :], tokens], axis=1), None)


def mixture(actions: Array, waves: Array) -> Array:
    return jnp.concatenate([actions, waves], axis=-1)


def time_condition(parameters: Parameters, moment: Array) -> Array:
    """π0.5's embedding (n, d) of the times (n,), which every norm of the expert follows."""
    hidden = jax.nn.swish(linear(parameters, "time_mlp_in", time_waves(moment, parameters["time_mlp_in/kernel"].shape[0])))
    return jax.nn.swish(linear(parameters, "time_mlp_out", hidden))


def time_waves(moment: Array, width: int) -> Array:
    """Sines and then cosines (n, width) of the times (n,), periods from 0.004 to 4 in equal ratios."""
    period = SHORTEST * (LONGEST / SHORTEST) ** jnp.linspace(0.0, 1.0, width // 2)
    angle = moment[:, None] * (1.0 / period * 2 * jnp.pi)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


@jax.jit
def advance(parameters: Parameters, hidden: Array, actions: Array, step: float) -> Stepped:
    """One Euler step along the velocity that the expert's last tokens give."""
    velocity = linear(parameters, "action_out_proj", hidden[:, -actions.shape[1] :])
    return Stepped(velocity, actions + step * velocity)


def linear(parameters: Parameters, name: str, x: Array) -> Array:
    return gemma.einsum("...d,de->...e", x, parameters[f"{name}/kernel"]) + parameters[f"{name}/bias"]
