"""OpenVLA (Prismatic): fused DINOv2 and SigLIP patches, a projector and Llama, in the published checkpoint format.

Stacks and their sequences: `dinov2` and `siglip` (a tower's own tokens), `projector` (patches), `text` (the prompt before
the image is spliced in: document 000's L0_embedding) and `lm` ([BOS][patches][rest of the prompt]).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.adapters._base import Anatomy
from harness.adapters._prismatic import Prismatic, PrismaticConfig, attention_allowed
from harness.adapters._prismatic_actions import action_statistics, decode_actions
from harness.adapters._prismatic_image import default_preprocessor, preprocess
from harness.adapters._prismatic_weights import IGNORED, PARTS, build_random, load, load_config, load_preprocessor
from harness.adapters._prismatic_weights import published_shapes, published_to_native
from harness.adapters._transformer import TransformerAdapter, read_safetensors, right_padded, stack_clauses
from harness.adapters._words import word_ids
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Batch, Clause, Point, Runtime, Sample, Subject, TokenMap

__all__ = ["OpenVLA"]

# openvla experiments/robot/openvla_utils.py:158-163; v01 checkpoints were trained on a chat with a system prompt
PROMPTS = {
    "openvla": "In: What action should the robot take to {}?\nOut:",
    "v01": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the user's questions. USER: What action should the robot take to {}? ASSISTANT:"
    ),
}
BOS = 1
SPACE = 29871  # Llama's lone space piece, which upstream appends before the first action token (modeling_prismatic.py:512)
LLAMA_VOCABULARY = 32000


class Action(NamedTuple):
    """Greedy action tokens (a,) and the action (a,) they stand for, in the dataset's own units."""

    token_ids: tuple[int, ...]
    values: np.ndarray


@final
class OpenVLA(TransformerAdapter):
    """Features are taken from one prefill; the position that predicts the first action token is the last valid one."""

    inputs_used = ("images", "instruction")
    inputs_unused = ("state",)
    model: Prismatic

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("model_type") in ("openvla", "prismatic")

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        return Anatomy(published_shapes(load_config(directory)), PARTS, IGNORED)

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> OpenVLA:
        """Raises DamagedError or MissingError for a checkpoint that is not whole, before anything is computed."""
        dtype, directory = getattr(torch, runtime.dtype), subject.weights.directory
        if directory is not None:
            model = load(directory, dtype=dtype, device=runtime.device, attention=runtime.attention)
        else:
            config = PrismaticConfig.from_dict(subject.config, where=f"card {subject.model}")
            if subject.weights.kind == "meta":
                with torch.device("meta"):
                    model = Prismatic(config, attention=runtime.attention, dtype=dtype)
            else:
                model = build_random(config, seed=subject.weights.seed or 0, dtype=dtype, device=runtime.device, attention=runtime.attention)
        return cls(subject, runtime, model, _clauses(model))

    def encode(self, samples: Sequence[Sample]) -> Batch:
        self.require(samples)
        ids, mask = right_padded([self._ids(sample.instruction) for sample in samples], self.model.config.pad_token_id)
        pixels = np.stack([preprocess(self.pictures(sample)[0], self.preprocessor) for sample in samples])
        inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.from_numpy(pixels)}
        return self.batch(inputs, [sample.id for sample in samples])

    def batch(self, inputs: Mapping[str, Tensor], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch from model inputs as upstream's processor gives them: ids and mask (n, t), pixels (n, 6 or 3, s, s)."""
        valid = inputs["attention_mask"].bool()
        rows, patches = len(valid), self.model.config.towers[0].patches
        ones = torch.ones(rows, patches, dtype=torch.bool)
        merged = torch.cat([valid[:, :1], ones, valid[:, 1:]], dim=1)
        image = torch.zeros_like(merged)
        image[:, 1 : 1 + patches] = True
        tokens = {
            **{name: _tower_tokens(ones, tower.prefix) for name, tower in _towers(self.model).items()},
            "projector": TokenMap(ones, {"image.0": ones, "padding": ~ones}),
            "text": TokenMap(valid, {"text": valid, "padding": ~valid}),
            "lm": TokenMap(merged, {"text": merged & ~image, "image.0": image, "padding": ~merged}),
        }
        parameter = self.model.language_model.lm_head.weight
        placed = {name: inputs[name].to(parameter.device) for name in ("input_ids", "attention_mask", "pixel_values")}
        placed["pixel_values"] = placed["pixel_values"].to(parameter.dtype)
        return Batch(tuple(sample_ids or map(str, range(rows))), placed, tokens)

    def call(self, batch: Batch) -> dict[str, Tensor]:
        output = self.model(**batch.inputs)._asdict()
        return {**output, "attention_allowed": attention_allowed(output["attention_mask"])}

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        if stack != "lm":
            names = list(_towers(self.model))
            if stack not in names:
                raise UnknownNameError("stack with a framework tuple", stack, ["lm", *names])
            pixels = batch.inputs["pixel_values"].split(3, dim=1)[names.index(stack)]
            return _towers(self.model)[stack].model, {"pixel_values": pixels}
        output = self.forward(batch)
        bias = torch.where(attention_allowed(output["attention_mask"]), 0.0, torch.finfo(output["embedding"].dtype).min)
        inputs = {"inputs_embeds": output["embedding"], "attention_mask": bias.to(output["embedding"].dtype), "use_cache": False}
        return self.model.language_model.model, inputs

    def predict(self, batch: Batch, unnorm_key: str | None = None) -> Action:
        """The greedy action for a batch of one sample (openvla modeling_prismatic.py:500-536). Raises UsageError."""
        if len(batch.sample_ids) != 1:
            raise UsageError("an action is predicted for one sample at a time", got=f"{len(batch.sample_ids)} samples")
        inputs, found = dict(batch.inputs), []
        for _ in action_statistics(self.model.config, unnorm_key)["q01"]:
            with torch.no_grad():
                found.append(int(self.model(**inputs).logits[0, -1].argmax()))
            inputs["input_ids"] = torch.cat([inputs["input_ids"], inputs["input_ids"].new_tensor([found[-1:]])], dim=1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], inputs["attention_mask"].new_ones(1, 1)], dim=1)
        return Action(tuple(found), self.decode(found, unnorm_key))

    def act(self, samples: Sequence[Sample]) -> np.ndarray:
        """In the units of option `unnorm_key`'s dataset, else of the first by name that the checkpoint knows."""
        known = sorted(self.model.config.norm_stats)
        key = self.subject.options.get("unnorm_key", known[0] if known else None)
        return np.stack([self.predict(self.encode([sample]), key).values for sample in samples])

    def decode(self, token_ids: Sequence[int], unnorm_key: str | None = None, processor: Mapping[str, object] | None = None) -> np.ndarray:
        """The action (a,) that tokens stand for, in the dataset's own units; see `decode_actions` for what it raises."""
        return decode_actions(token_ids, self.model.config, unnorm_key)

    def published_state(self) -> dict[str, Tensor]:
        directory = self.subject.weights.directory
        return published_to_native(read_safetensors(directory), self.model.config, directory)

    @cached_property
    def preprocessor(self) -> Mapping[str, object]:
        """The checkpoint's saved image processing, or what upstream would have saved."""
        directory = self.subject.weights.directory
        return (load_preprocessor(directory) if directory else None) or default_preprocessor(self.model.config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The checkpoint's own tokenizer; None, for stand-in words, where the vocabulary is too small to be Llama's.

        Raises MissingError when a published-size checkpoint comes without its tokenizer.
        """
        directory, vocabulary = self.subject.weights.directory, self.model.config.vocabulary
        if directory is not None and any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
            return AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if directory is not None and vocabulary > LLAMA_VOCABULARY:
            raise MissingError("the checkpoint has no tokenizer", where=directory, expected="tokenizer.json", next="copy it from the published repository")
        return None

    def _ids(self, instruction: str) -> list[int]:
        style = self.subject.options.get("prompt", "openvla")
        if style not in PROMPTS:
            raise UnknownNameError("prompt style", style, PROMPTS, where=f"card {self.subject.model}, field options.prompt")
        prompt = PROMPTS[style].format(instruction.lower())
        if self.tokenizer is None:
            config = self.model.config
            words = word_ids(prompt, config.vocabulary - config.pad_to_multiple_of - config.n_action_bins)
            return [BOS, *words, SPACE if config.vocabulary > SPACE else BOS + 1]
        ids = self.tokenizer(prompt)["input_ids"]
        return ids if ids[-1] == SPACE else [*ids, SPACE]


def _towers(model: Prismatic) -> dict[str, nn.Module]:
    return {config.kind: tower for config, tower in zip(model.config.towers, model.vision.values(), strict=True)}


def _tower_tokens(patches: Tensor, prefix: int) -> TokenMap:
    valid = torch.cat([patches.new_ones(len(patches), prefix), patches], dim=1)
    image = valid.clone()
    image[:, :prefix] = False
    return TokenMap(valid, {"prefix": valid & ~image, "image.0": image, "padding": ~valid})


def _clauses(model: Prismatic) -> dict[Point, Clause]:
    """Every point of the network in the order it runs; a tower's last block is loaded but never run, so it has none."""
    clauses: dict[Point, Clause] = {}
    for (kind, tower), (name, config) in zip(_towers(model).items(), zip(model.vision, model.config.towers, strict=True), strict=True):
        path = f"vision.{name}.model"
        clauses |= stack_clauses(
            kind,
            blocks=f"{path}.encoder.{'layer' if tower.prefix else 'layers'}",
            depth=config.depth - 1,
            width=config.embed_dim,
            embedding=f"{path}.embeddings",
            norm=None,
            ties_last=False,
        )
    width = model.config.text.hidden_size
    clauses[Point("projector", "input")] = Clause("projector", "input", model.config.vision_width, "raw")
    clauses[Point("projector", "output")] = Clause("projector", "output", width, "raw")
    clauses[Point("text", "embedding")] = Clause("language_model.model.embed_tokens", "output", width, "raw")
    clauses[Point("lm", "embedding")] = Clause("language_model.model.layers.0", "input", width, "raw", 0)
    clauses |= stack_clauses(
        "lm",
        blocks="language_model.model.layers",
        depth=model.config.text.num_hidden_layers,
        width=width,
        embedding=None,
        norm="language_model.model.norm",
        ties_last=True,
    )
    return clauses
