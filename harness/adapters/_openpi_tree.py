"""π0's parameter tree by layer: where each stacked leaf goes, and how it is put together again; random leaves and shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import crc32

import jax
import numpy as np
from jax import Array

from harness.adapters._openpi_sampler import Network
from harness.adapters._openpi_sizes import ACTION_EXPERT, ENCODER, GEMMA, Sizes, leaf_shapes

__all__ = ["abstract", "by_layer", "network", "random_leaf", "stacked"]

LAYERS, EYES, TABLE = f"{GEMMA}/layers/", f"{ENCODER}/Transformer/encoderblock/", f"{GEMMA}/embedder/input_embedding"
STACKS = ("eye_blocks", "blocks", "expert_blocks")


class Place(NamedTuple):
    """A leaf's field of the network and its name there."""

    field: str
    name: str


def network(sizes: Sizes, leaf: Callable[[str], np.ndarray], put: Callable[[np.ndarray], Array]) -> Network:
    """The network out of upstream's leaves, which `leaf` gives by name; `put` makes each layer's part what is computed with."""
    depths = {"eye_blocks": sizes.vision_depth, "blocks": sizes.depth, "expert_blocks": sizes.depth}
    flat: dict[str, dict[str, Array]] = {"eye": {}, "table": {}, "last": {}, "expert_last": {}, "actions": {}}
    layers: dict[str, tuple[dict[str, Array], ...]] = {field: tuple({} for _ in range(depth)) for field, depth in depths.items()}
    for name in leaf_shapes(sizes):
        whole, (field, own) = leaf(name), place_of(name)
        if field in flat:
            flat[field][own] = put(whole)
        else:
            for index, layer in enumerate(layers[field]):
                layer[own] = put(whole[index])
    return Network(**{**flat, **layers, "table": flat["table"][""]})  # type: ignore[arg-type]


def stacked(parameters: Network, name: str) -> np.ndarray:
    """The leaf that upstream calls `name`, as the network holds it."""
    field, own = place_of(name)
    held = getattr(parameters, field)
    if field == "table":
        return np.asarray(held)
    return np.stack([np.asarray(layer[own]) for layer in held]) if field in STACKS else np.asarray(held[own])


def by_layer(sizes: Sizes, parameters: Network) -> Iterator[tuple[str, np.ndarray]]:
    """Every leaf as float32 under upstream's name; of a stacked one each layer's part, its number behind the stack: `layers[3]/…`."""
    for name in leaf_shapes(sizes):
        leaf, stack = stacked(parameters, name), next((stack for stack in (EYES, LAYERS) if name.startswith(stack)), None)
        if stack is None:
            yield name, leaf.astype(np.float32)
        else:
            for index, part in enumerate(leaf):
                yield f"{stack[:-1]}[{index}]/{name.removeprefix(stack)}", part.astype(np.float32)


def abstract(sizes: Sizes, dtype: str) -> Network:
    """The network as shapes and dtypes, without an array."""
    leaves = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in leaf_shapes(sizes).items()}
    return jax.eval_shape(lambda given: network(sizes, given.__getitem__, lambda x: x), leaves)


def place_of(name: str) -> Place:
    """Where a leaf goes; the expert's suffix is dropped from its names."""
    if name.startswith(EYES):
        return Place("eye_blocks", name.removeprefix(EYES))
    if name.startswith(f"{ENCODER}/"):
        return Place("eye", name.removeprefix(f"{ENCODER}/"))
    if name == TABLE:
        return Place("table", "")
    if not name.startswith(f"{GEMMA}/"):
        return Place("actions", name)
    parts = name.removeprefix(LAYERS).removeprefix(f"{GEMMA}/").split("/")
    own = "/".join(part.removesuffix(ACTION_EXPERT) for part in parts)
    field = "blocks" if name.startswith(LAYERS) else "last"
    return Place(f"expert_{field}" if of_expert(parts) else field, own)


def of_expert(parts: list[str]) -> bool:
    return any(part.endswith(ACTION_EXPERT) for part in parts)


def random_leaf(sizes: Sizes, *, seed: int) -> Callable[[str], np.ndarray]:
    """Leaves by name in which every part matters: unit gain, no zero scale or bias; the same for one seed on any machine."""
    shapes = leaf_shapes(sizes)

    def leaf(name: str) -> np.ndarray:
        shape, last = shapes[name], name.rpartition("/")[2]
        x = np.random.default_rng([seed, crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
        if last == "scale":
            return 0.3 * x + np.float32(name.startswith(ENCODER))
        return 0.2 * x if last in ("bias", "pos_embedding") else x * np.float32(fan_in(name, shape) ** -0.5)

    return leaf


def fan_in(name: str, shape: tuple[int, ...]) -> int:
    """How many numbers make one output of a kernel; of the table its width, whose root multiplies the words."""
    if name == TABLE:
        return shape[1]
    if name == f"{ENCODER}/embedding/kernel":
        return int(np.prod(shape[:3]))
    if "attn_vec_einsum" in name or name.endswith("/out/kernel"):
        return shape[-3] * shape[-2]
    return shape[-3] if name.endswith(("/query/kernel", "/key/kernel", "/value/kernel")) else shape[-2]
