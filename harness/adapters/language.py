"""Text-only transformers through `transformers.AutoModel`: decoders (Llama) and encoders (BERT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final

from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.adapters._base import Anatomy
from harness.adapters._published import auto_anatomy
from harness.adapters._transformer import TransformerAdapter, auto_model, right_padded, stack_clauses
from harness.adapters._words import word_ids
from harness.errors import MissingError, UnknownNameError
from harness.types import Batch, Runtime, Sample, Subject, TokenMap

__all__ = ["Language"]


class _Layout(NamedTuple):
    embedding: str
    blocks: str
    norm: str | None  # None: every block ends in its own norm (post-norm BERT)


LAYOUTS = {
    "llama": _Layout("embed_tokens", "layers", "norm"),
    "bert": _Layout("embeddings", "encoder.layer", None),
}


@final
class Language(TransformerAdapter):
    """Points `lm.embedding`, `lm.NN.input`, `lm.NN.output` and, for pre-norm decoders, `lm.final_norm`."""

    inputs_used = ("instruction",)
    inputs_unused = ("images", "state")

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("model_type") in LAYOUTS

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        return auto_anatomy(directory, {"language": ""})

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> Language:
        """Raises UnknownNameError for an architecture without a layout, and what `auto_model` raises."""
        model = auto_model(subject, runtime)
        if (kind := model.config.model_type) not in LAYOUTS:
            raise UnknownNameError("language architecture", kind, LAYOUTS, where=subject.id)
        layout, sizes = LAYOUTS[kind], model.config
        clauses = stack_clauses(
            "lm",
            blocks=layout.blocks,
            depth=sizes.num_hidden_layers,
            width=sizes.hidden_size,
            embedding=layout.embedding,
            norm=layout.norm,
            ties_last=True,
        )
        return cls(subject, runtime, model, clauses)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        self.require(samples)
        if self.tokenizer is None:
            ids = [word_ids(sample.instruction, self.model.config.vocab_size) for sample in samples]
        else:
            ids = self.tokenizer([sample.instruction for sample in samples])["input_ids"]
        padded, mask = right_padded(ids, self.model.config.pad_token_id or 0)
        valid = mask.bool()
        device = self.runtime.device
        return Batch(
            tuple(sample.id for sample in samples),
            {"input_ids": padded.to(device), "attention_mask": mask.to(device)},
            {"lm": TokenMap(valid, {"text": valid, "padding": ~valid})},
        )

    def call(self, batch: Batch) -> dict[str, Tensor]:
        output = self.model(**batch.inputs, **({"use_cache": False} if self.model.config.model_type == "llama" else {}))
        return {name: value for name, value in output.items() if isinstance(value, Tensor)}

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        return self.model, batch.inputs

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The checkpoint's own tokenizer; None for mock subjects, which have no vocabulary of their own."""
        directory = self.subject.weights.directory or self.subject.tokenizer
        if directory is not None and not any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.txt")):
            raise MissingError("the checkpoint has no tokenizer", where=directory, expected="tokenizer.json", next="copy it from the published repository")
        return None if directory is None else AutoTokenizer.from_pretrained(directory, local_files_only=True)
