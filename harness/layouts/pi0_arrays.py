"""Arrays of a π0 between openpi's stacked leaves and torch's tensors: transposed, reshaped, stacked and unstacked, never computed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.errors import DamagedError
from harness.layouts._pi0_leaves import LANGUAGE, VISION, Leaf, Part, leaves
from harness.layouts.pi0 import EMBEDDING, EXPERT
from harness.layouts.tensors import Lazy

__all__ = ["Heads", "Sizes", "sizes_of_leaves", "sizes_of_tensors", "to_leaves", "to_tensors"]

_BLOCKS = "PaliGemma/llm/layers/"
_VIT = "PaliGemma/img/"


@dataclass(frozen=True)
class Heads:
    """What the shapes of torch's tensors do not tell. Both experts share heads and kv heads."""

    language: int
    kv: int
    vision: int


@dataclass(frozen=True)
class Sizes:
    """Everything that the shapes of a π0's arrays follow from; `state` is 0 for a π0.5, which has no state token."""

    heads: Heads
    head: int
    depth: int
    width: int
    mlp: int
    expert_width: int
    expert_mlp: int
    vocabulary: int
    vision_depth: int
    vision_width: int
    vision_mlp: int
    patch: int
    positions: int
    action: int
    state: int

    @property
    def adaptive(self) -> bool:
        return self.state == 0

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return leaves(adaptive=self.adaptive, fused=self.heads.kv == self.heads.language)

    def letters(self, part: Part) -> dict[str, int]:
        """The length of every axis letter of `_pi0_leaves` in one part of the network."""
        width, mlp = (self.expert_width, self.expert_mlp) if part == "expert" else (self.width, self.mlp)
        gemma = {"n": self.heads.language, "k": self.heads.kv, "h": self.head, "d": width, "f": mlp, "e": 3 * width, "t": 2 * width, "z": width}
        eye = {"v": self.heads.vision, "x": self.vision_width // self.heads.vision, "w": self.vision_width, "m": self.vision_mlp}
        rest = {"p": self.patch, "q": self.patch, "c": 3, "g": self.positions, "o": 1, "a": self.action, "s": self.state, "u": self.vocabulary}
        return gemma | eye | rest

    def layers(self, leaf: Leaf) -> range:
        """The layers stacked in a leaf; one nameless layer where it is not stacked."""
        return range((self.vision_depth if leaf.part == "vision" else self.depth) if leaf.stacked else 1)

    def leaf_shape(self, leaf: Leaf) -> tuple[int, ...]:
        letters = self.letters(leaf.part)
        pair = (len(leaf.names),) if len(leaf.names) > 1 else ()
        return (*((len(self.layers(leaf)),) if leaf.stacked else ()), *pair, *(letters[axis] for axis in leaf.axes.split()))

    def tensor_shape(self, leaf: Leaf) -> tuple[int, ...]:
        letters = self.letters(leaf.part)
        return tuple(math.prod(letters[axis] for axis in group) for group in leaf.torch.split())

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the network by its canonical name; heads without use are not among them."""
        return {name.format(layer): self.tensor_shape(leaf) for leaf in self.leaves for layer in self.layers(leaf) for name in leaf.names}


def to_tensors(arrays: Mapping[str, Lazy], sizes: Sizes, *, where: object) -> dict[str, Lazy]:
    """Torch's tensors by canonical name from openpi's leaves by path; the embedding is `embed_tokens`.

    Raises DamagedError that lists the leaves that are missing or misshapen.
    """
    _fit(arrays, {leaf.path: sizes.leaf_shape(leaf) for leaf in sizes.leaves}, where)
    tensors = {}
    for leaf in sizes.leaves:
        shape, forward = sizes.tensor_shape(leaf), _forward(leaf)
        for layer in sizes.layers(leaf):
            for index, name in enumerate(leaf.names):
                place = (*((layer,) if leaf.stacked else ()), *((index,) if len(leaf.names) > 1 else ()))
                tensors[name.format(layer)] = arrays[leaf.path].map(shape, lambda x, p=place, s=shape, f=forward: f(x[p]).reshape(s))
    return tensors


def to_leaves(tensors: Mapping[str, Lazy], sizes: Sizes, *, where: object) -> dict[str, Lazy]:
    """openpi's leaves by path from torch's tensors by canonical name, the exact inverse of `to_tensors`.

    Raises DamagedError that lists the tensors that are missing or misshapen, or those of one leaf that differ in dtype.
    """
    _fit(tensors, sizes.tensor_shapes(), where)
    arrays = {}
    for leaf in sizes.leaves:
        parts = [tensors[name.format(layer)] for layer in sizes.layers(leaf) for name in leaf.names]
        if len(kinds := {part.dtype.name for part in parts}) > 1:
            got = f"{', '.join(sorted(kinds))} under {leaf.names[0].format('*')}"
            raise DamagedError("tensors that openpi stacks in one array differ in dtype", where=where, got=got, expected="one dtype")
        shape, backward = sizes.leaf_shape(leaf), _backward(leaf, sizes)
        one = tuple(sizes.letters(leaf.part)[axis] for axis in leaf.axes.split())
        arrays[leaf.path] = Lazy.stack([part.map(one, backward) for part in parts], shape)
    return arrays


def sizes_of_leaves(shapes: Mapping[str, tuple[int, ...]], *, where: object) -> Sizes:
    """The sizes of openpi's leaves, from shapes by path. Raises DamagedError when those that tell are not there."""

    def at(path: str, axis: int) -> int:
        if path not in shapes or len(shapes[path]) <= axis:
            got = f"{path} {shapes.get(path, 'missing')}"
            raise DamagedError("a leaf that tells the model's size is missing or misshapen", where=where, got=got, expected="the leaves of a π0 of openpi")
        return shapes[path][axis]

    fused = f"{_BLOCKS}attn/qkv_einsum/w" in shapes
    q = f"{_BLOCKS}attn/{'qkv' if fused else 'q'}_einsum/w"
    heads, head, depth = at(q, 2 if fused else 1), at(q, -1 % len(shapes.get(q, (0,)))), at(q, 0)
    kv = heads if fused else at(f"{_BLOCKS}attn/kv_einsum/w", 2)
    gate, expert = f"{_BLOCKS}mlp/gating_einsum", f"{_BLOCKS}mlp_1/gating_einsum"
    eye, query = f"{_VIT}Transformer/encoderblock/MlpBlock_0/Dense_0/kernel", f"{_VIT}Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel"
    return Sizes(
        heads=Heads(heads, kv, at(query, 2)), head=head, depth=depth, width=at(gate, 2), mlp=at(gate, 3), expert_width=at(expert, 2), expert_mlp=at(expert, 3),
        vocabulary=at("PaliGemma/llm/embedder/input_embedding", 0), vision_depth=at(eye, 0), vision_width=at(eye, 1), vision_mlp=at(eye, 2),
        patch=at(f"{_VIT}embedding/kernel", 0), positions=at(f"{_VIT}pos_embedding", 1), action=at("action_in_proj/kernel", 0),
        state=at("state_proj/kernel", 0) if "time_mlp_in/kernel" not in shapes else 0,
    )  # fmt: skip


def sizes_of_tensors(shapes: Mapping[str, tuple[int, ...]], heads: Heads, *, where: object) -> Sizes:
    """The sizes of torch's tensors, from shapes by canonical name, the embedding as `embed_tokens`. Raises DamagedError."""

    def at(name: str, axis: int) -> int:
        if name not in shapes or len(shapes[name]) <= axis:
            got = f"{name} {shapes.get(name, 'missing')}"
            raise DamagedError("a tensor that tells the model's size is missing or misshapen", where=where, got=got, expected="the tensors of a π0")
        return shapes[name][axis]

    gate, expert, fc = f"{LANGUAGE}layers.0.mlp.gate_proj.weight", f"{EXPERT}model.layers.0.mlp.gate_proj.weight", f"{VISION}encoder.layers.0.mlp.fc1.weight"
    head, rest = divmod(at(f"{LANGUAGE}layers.0.self_attn.k_proj.weight", 0), heads.kv)
    _, uneven = divmod(at(fc, 1), heads.vision)
    if rest or uneven or at(f"{LANGUAGE}layers.0.self_attn.q_proj.weight", 0) != head * heads.language:
        expected = "heads of the width of kv heads; SigLIP heads that divide its width"
        raise DamagedError("the numbers of heads do not divide the projections", where=where, got=heads, expected=expected)
    return Sizes(
        heads=heads, head=head, depth=max(_depth(shapes, LANGUAGE), _depth(shapes, f"{EXPERT}model.")), width=at(gate, 1), mlp=at(gate, 0),
        expert_width=at(expert, 1), expert_mlp=at(expert, 0), vocabulary=at(EMBEDDING, 0), vision_depth=_depth(shapes, f"{VISION}encoder."),
        vision_width=at(fc, 1), vision_mlp=at(fc, 0), patch=at(f"{VISION}embeddings.patch_embedding.weight", 3),
        positions=at(f"{VISION}embeddings.position_embedding.weight", 0), action=at("model.action_in_proj.weight", 1),
        state=at("model.state_proj.weight", 1) if "model.time_mlp_in.weight" not in shapes else 0,
    )  # fmt: skip


def _depth(names: Iterable[str], stem: str) -> int:
    found = [int(match[1]) for name in names if (match := re.match(re.escape(stem) + r"layers\.(\d+)\.", name))]
    return 1 + max(found, default=-1)


def _forward(leaf: Leaf) -> Callable[[np.ndarray], np.ndarray]:
    axes, order = leaf.axes.split(), leaf.torch.replace(" ", "")
    return lambda x: x.transpose([axes.index(axis) for axis in order])


def _backward(leaf: Leaf, sizes: Sizes) -> Callable[[np.ndarray], np.ndarray]:
    axes, order, letters = leaf.axes.split(), leaf.torch.replace(" ", ""), sizes.letters(leaf.part)
    return lambda x: x.reshape([letters[axis] for axis in order]).transpose([order.index(axis) for axis in axes])


def _fit(given: Mapping[str, Lazy], wanted: Mapping[str, tuple[int, ...]], where: object) -> None:
    missing = sorted(wanted.keys() - given.keys())
    if missing:
        got = ", ".join(missing[:20]) + (" …" if len(missing) > 20 else "")
        raise DamagedError(f"{len(missing)} arrays of the model are missing", where=where, got=got, expected="none")
    if wrong := [f"{name} {tuple(given[name].shape)} for {shape}" for name, shape in wanted.items() if tuple(given[name].shape) != shape]:
        raise DamagedError(f"{len(wrong)} arrays have another shape than the model's sizes ask for", where=where, got=", ".join(wrong[:20]), expected="none")
