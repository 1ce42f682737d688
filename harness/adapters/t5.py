"""T5 as a reference: the encoder's states of the instruction alone, whose mean over valid tokens the probes take as a label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from harness.adapters._base import Anatomy, Norm
from harness.adapters._transformer import TransformerAdapter, read_safetensors, require_attention, right_padded, stack_clauses
from harness.adapters._weights import published_tensors, random_state, read_json, refuse
from harness.adapters._words import word_ids
from harness.errors import DamagedError, MissingError, UnknownNameError
from harness.types import Batch, Point, Runtime, Sample, Subject, TokenMap

__all__ = ["T5"]

IGNORED = r"(decoder|lm_head)\."
WIDE = r".*\.wo\."  # transformers keeps these in float32 where all else is float16, in which T5 overflows
SHARED, EMBEDDING = "shared.weight", "encoder.embed_tokens.weight"  # one tensor, stored under either name or both
VOCABULARY = 32000  # pieces of the published tokenizer, without its sentinels
END = 1


@final
class T5(TransformerAdapter):
    """Points `lm.embedding`, `lm.NN.input`, `lm.NN.output`, `lm.final_norm`; the span `text` holds the end token as well,
    as the published tokenizer appends it and means of the encoder's output are taken over it.
    """

    inputs_used = ("instruction",)
    inputs_unused = ("images", "state")
    model: T5EncoderModel

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("model_type") == "t5"

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        shapes = _shapes(_config(read_json(directory / "config.json"), directory / "config.json"))
        return Anatomy(shapes, {"language": r"(shared|encoder)\.", "decoder": IGNORED}, rf"{IGNORED}|{EMBEDDING}$")

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> T5:
        """Raises DamagedError or MissingError for a checkpoint that is not whole, before anything is computed."""
        dtype, directory = getattr(torch, runtime.dtype), subject.weights.directory
        where = f"card {subject.model}" if directory is None else directory / "config.json"
        config = _config(subject.config if directory is None else read_json(directory / "config.json"), where)
        with torch.device("meta"):
            model = T5EncoderModel._from_config(config, attn_implementation=runtime.attention, dtype=dtype)
        require_attention(model, runtime.attention)
        if subject.weights.kind != "meta":
            if directory is not None:
                state = _encoder_state(_published(directory, dtype, runtime.device), config, directory)
            else:
                state = random_state(_shapes(config), seed=subject.weights.seed or 0, dtype=dtype, device=runtime.device)
            model.load_state_dict({**state, EMBEDDING: state[SHARED]}, strict=True, assign=True)
            model.tie_weights()
        clauses = stack_clauses(
            "lm",
            blocks="encoder.block",
            depth=config.num_layers,
            width=config.d_model,
            embedding="encoder.embed_tokens",
            norm="encoder.final_layer_norm",
            ties_last=True,
        )
        return cls(subject, runtime, model, clauses)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        self.require(samples)
        ids, mask = right_padded([self._ids(sample.instruction) for sample in samples], self.model.config.pad_token_id or 0)
        return self.batch({"input_ids": ids, "attention_mask": mask}, [sample.id for sample in samples])

    def batch(self, inputs: Mapping[str, Tensor], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch from ids and mask (n, t) as the tokenizer gives them."""
        valid, device = inputs["attention_mask"].bool(), self.model.shared.weight.device
        placed = {name: inputs[name].to(device) for name in ("input_ids", "attention_mask")}
        return Batch(tuple(sample_ids or map(str, range(len(valid)))), placed, {"lm": TokenMap(valid, {"text": valid, "padding": ~valid})})

    def call(self, batch: Batch) -> dict[str, Tensor]:
        return {"last_hidden_state": self.model(**self._inputs(batch)).last_hidden_state}

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        if stack != "lm":
            raise UnknownNameError("stack with a framework tuple", stack, ["lm"])
        return self.model.encoder, self._inputs(batch)

    def published_state(self) -> dict[str, Tensor]:
        directory = self.subject.weights.directory
        stored = {name: tensor for name, tensor in read_safetensors(directory).items() if not re.match(IGNORED, name)}
        return _encoder_state(stored, self.model.config, directory)

    def final_norm(self, point: Point) -> Norm:
        norm = self.model.get_submodule(self.clauses[point].module)
        return Norm("rms", norm.weight, None, norm.variance_epsilon)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The checkpoint's own tokenizer; None, for stand-in words, where the vocabulary is too small to be T5's.

        Raises MissingError when a published-size checkpoint comes without its tokenizer.
        """
        directory = self.subject.weights.directory
        if directory is not None and any((directory / name).exists() for name in ("tokenizer.json", "spiece.model")):
            return AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if directory is not None and self.model.config.vocab_size >= VOCABULARY:
            copy = "copy it from the published repository"
            raise MissingError("the checkpoint has no tokenizer", where=directory, expected="tokenizer.json", next=copy)
        return None

    def _ids(self, instruction: str) -> list[int]:
        if self.tokenizer is None:
            return [*word_ids(instruction, self.model.config.vocab_size), END]
        return self.tokenizer(instruction)["input_ids"]

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """A ready 4-D mask: transformers makes its own by looking at values, which tensors on the meta device lack."""
        weight = self.model.shared.weight
        bias = torch.where(batch.inputs["attention_mask"][:, None, None, :].bool(), weight.new_zeros(()), torch.finfo(weight.dtype).min)
        length = bias.shape[-1]
        return {"input_ids": batch.inputs["input_ids"], "attention_mask": bias.expand(-1, 1, length, -1)}


def _config(config: Mapping[str, Any], where: object) -> T5Config:
    """Raises DamagedError for another model type and for values transformers refuses; a saved dtype or output switch is dropped."""
    if (kind := config.get("model_type")) != "t5":
        raise DamagedError("not a T5 checkpoint", where=where, got=f"model_type {kind}", expected="t5")
    dropped = {"dtype", "torch_dtype", "output_hidden_states", "output_attentions"}
    try:
        return T5Config.from_dict({name: value for name, value in config.items() if name not in dropped})
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise DamagedError("the configuration is no T5's", where=where, got=error) from error


def _shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the encoder, the embedding under its published name alone."""
    with torch.device("meta"):
        return {name: tuple(x.shape) for name, x in T5EncoderModel(config).state_dict().items() if name != EMBEDDING}


def _published(directory: Path, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """The encoder's stored tensors, in `dtype` but for those of `WIDE`."""
    if dtype != torch.float16:
        return published_tensors(directory, dtype=dtype, device=device, ignored=IGNORED)
    narrow = published_tensors(directory, dtype=dtype, device=device, ignored=rf"{IGNORED}|{WIDE}")
    return narrow | published_tensors(directory, dtype=torch.float32, device=device, ignored=rf"{IGNORED}|(?!{WIDE})")


def _encoder_state(stored: Mapping[str, Tensor], config: T5Config, where: object) -> dict[str, Tensor]:
    """`stored` without a second embedding. Raises DamagedError for tensors missing, left over, of another shape or contradictory."""
    found = dict(stored)
    second = found.pop(EMBEDDING, None)
    if second is not None and not torch.equal(found.setdefault(SHARED, second), second):
        raise DamagedError("two different embeddings, where T5's encoder has one", where=where, got=f"{SHARED}, {EMBEDDING}")
    shapes = _shapes(config)
    refuse("tensors missing from the checkpoint", sorted(shapes.keys() - found.keys()), where)
    refuse("tensors the encoder has no place for", sorted(found.keys() - shapes.keys()), where)
    wrong = [f"{name} {tuple(x.shape)}, not {shapes[name]}" for name, x in found.items() if tuple(x.shape) != shapes[name]]
    refuse("tensors of another shape than config.json describes", sorted(wrong), where)
    return found
