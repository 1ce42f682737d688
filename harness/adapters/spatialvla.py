"""SpatialVLA: SigLIP patches with their place in space from ZoeDepth, and Gemma2, in the published checkpoint format.

Stacks and their sequences: `vision` (SigLIP's patches), `ego3d` and `projector` (the same patches) and `lm`
([<image> x patches][BOS][prompt] newline). Attention is eager and fully bidirectional over the prompt, as in upstream's
inference; its training script used flash attention, which is causal there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.adapters._base import Anatomy, Norm
from harness.adapters._spatialvla import SpatialVLA as Network
from harness.adapters._spatialvla import normalised
from harness.adapters._spatialvla_actions import TOKENS_PER_STEP, ActionTokens
from harness.adapters._spatialvla_config import SpatialVLAConfig
from harness.adapters._spatialvla_processor import INTRINSICS, PROMPTS, camera_intrinsic, preprocess
from harness.adapters._spatialvla_weights import build_random, load, load_config, published_shapes, published_to_native
from harness.adapters._transformer import TransformerAdapter, read_safetensors, right_padded, stack_clauses
from harness.adapters._weights import read_json
from harness.adapters._words import word_ids
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Batch, Clause, Point, Runtime, Sample, Subject, TokenMap

__all__ = ["SpatialVLA"]

GEMMA_VOCABULARY = 256000


class Action(NamedTuple):
    """Greedy tokens, three for each step, and the actions (steps, a) they stand for, in the dataset's own units."""

    token_ids: tuple[int, ...]
    values: np.ndarray


@final
class SpatialVLA(TransformerAdapter):
    """Features are taken from one prefill of the prompt.

    Samples do not touch each other: upstream's ZoeDepth chooses between its two heads by a vote over the batch, here it
    sees one sample at a time. One camera intrinsic, of card option `intrinsic_key` (else `unnorm_key`), serves a batch.
    """

    inputs_used = ("images", "instruction")
    inputs_unused = ("state",)
    kernels = ("eager",)
    model: Network

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("model_type") == "spatialvla"

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        parts = {
            "vision": r"vision_tower\.",
            "depth": r"vision_zoe_model\.",
            "position embedding": r"position_embedding_3d\.",
            "projector": r"multi_modal_projector\.",
            "language": r"language_model\.",
            "action tokens": r"spatial_embed_tokens\.",
        }
        return Anatomy(published_shapes(load_config(directory)), parts)

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> SpatialVLA:
        """Raises UsageError for a kernel other than eager; DamagedError or MissingError for a checkpoint that is not whole."""
        if runtime.attention not in cls.kernels:
            raise UsageError(
                f"under {runtime.attention} the soft cap of Gemma2's attention would be lost",
                where=subject.id,
                got=f"attention {runtime.attention}",
                expected="attention eager",
                next="--attention eager",
            )
        dtype, directory = getattr(torch, runtime.dtype), subject.weights.directory
        if directory is not None:
            model = load(directory, dtype=dtype, device=runtime.device)
        else:
            config = SpatialVLAConfig.from_dict(subject.config, where=f"card {subject.model}")
            if subject.weights.kind == "meta":
                with torch.device("meta"):
                    model = Network(config, dtype=dtype)
            else:
                model = build_random(config, seed=subject.weights.seed or 0, dtype=dtype, device=runtime.device)
        return cls(subject, runtime, model, _clauses(model.config))

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Raises UnknownNameError for a camera intrinsic or a prompt style that does not exist."""
        self.require(samples)
        ids, mask = right_padded([self._ids(sample.instruction) for sample in samples], self.model.config.pad_token_id)
        side, options = self.model.config.vision.image_size, self.subject.options
        key = options.get("intrinsic_key", options.get("unnorm_key", "default"))
        intrinsic = camera_intrinsic(self.processor.get("intrinsic_config") or INTRINSICS, key, side, self.subject.id)
        pixels = np.stack([preprocess(self.pictures(sample)[0], side, self.resample) for sample in samples])
        arrays = {"pixel_values": torch.from_numpy(pixels), "intrinsic": torch.from_numpy(intrinsic)}
        return self.batch({"input_ids": ids, "attention_mask": mask, **arrays}, [sample.id for sample in samples])

    def batch(self, inputs: Mapping[str, Tensor], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch from model inputs as upstream's processor gives them: ids and mask (n, t), pixels (n, 3, s, s) in [0, 1],
        one intrinsic (3, 3). Floating-point ones take the model's dtype, as upstream's `predict_action` has it.
        """
        ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
        image, patches = (ids == self.model.config.image_token_index) & valid, self.model.config.patches
        if bool((image.sum(1) != patches).any()):
            what = "a prompt has another number of image tokens than the picture has patches"
            raise UsageError(what, got=image.sum(1).tolist(), expected=patches)
        ones = torch.ones(len(ids), patches, dtype=torch.bool)
        tower = TokenMap(ones, {"image.0": ones, "padding": ~ones})
        stacks = ("vision", "ego3d", "projector") if self.model.config.use_vision_zoe else ("vision", "projector")
        merged = TokenMap(valid, {"image.0": image, "text": valid & ~image, "padding": ~valid})
        tokens = {**dict.fromkeys(stacks, tower), "lm": merged}
        weight = self.model.language_model.lm_head.weight
        placed = {name: inputs[name].to(weight.device) for name in ("input_ids", "attention_mask", "pixel_values", "intrinsic")}
        placed = {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in placed.items()}
        return Batch(tuple(sample_ids or map(str, range(len(ids)))), placed, tokens)

    def call(self, batch: Batch) -> dict[str, Tensor]:
        output = self.model(**batch.inputs)
        image, geometry = output.image, output.image.geometry
        named = {
            "vision_features": image.vision_features,
            "patch_features": image.patch_features,
            "projector_output": image.projector_output,
            "projected_patches": output.projected_patches,
            "inputs_embeds": output.inputs_embeds,
            "embedding": output.embedding,
            "attention_mask": batch.inputs["attention_mask"],
            "attention_allowed": output.attention_allowed,
            "attention_allowed.full": output.attention_allowed,
            "attention_allowed.sliding": output.attention_windowed,
            "position_ids": output.position_ids,
            "logits": output.logits,
        }
        if geometry is not None:
            named |= {
                "zoe_pixel_values.strided12": geometry.zoe_pixel_values[..., ::12, ::12],
                "zoe_depth.strided6": geometry.zoe_depth[..., ::6, ::6],
                "ego3d_xyz": geometry.ego3d_xyz,
                "ego3d_embedding": geometry.ego3d_embedding,
            }
        return named

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        if stack == "vision":
            return self.model.vision_tower, {"pixel_values": normalised(batch.inputs["pixel_values"])}
        if stack != "lm":
            raise UnknownNameError("stack with a framework tuple", stack, ["lm", "vision"])
        with torch.no_grad():
            output = self.model(**batch.inputs)
        inputs = self.model.attend(output.embedding, output.attention_allowed, output.attention_windowed, output.position_ids)
        return self.model.language_model.model, inputs

    def predict(self, batch: Batch, unnorm_key: str | None = None) -> Action:
        """The greedy action for a batch of one sample, its tokens drawn from the whole vocabulary until upstream's would end.

        Prompt positions never see predicted ones, as in a cache. Raises UsageError for more than one sample.
        """
        if len(batch.sample_ids) != 1:
            raise UsageError("an action is predicted for one sample at a time", got=f"{len(batch.sample_ids)} samples")
        inputs, found = dict(batch.inputs), []
        prompt, steps = inputs["input_ids"].shape[1], self._action_tokens({}).steps
        with torch.no_grad():
            image = self.model.see(inputs["pixel_values"], inputs["intrinsic"])
            while len(found) < TOKENS_PER_STEP * steps and self.model.config.eos_token_id not in found:
                found.append(int(self.model(**inputs, image=image, prompt=prompt).logits[0, -1].argmax()))
                inputs["input_ids"] = torch.cat([inputs["input_ids"], inputs["input_ids"].new_tensor([found[-1:]])], dim=1)
                inputs["attention_mask"] = torch.cat([inputs["attention_mask"], inputs["attention_mask"].new_ones(1, 1)], dim=1)
        return Action(tuple(found), self.decode(found, unnorm_key))

    def act(self, samples: Sequence[Sample]) -> np.ndarray:
        key = self.subject.options.get("unnorm_key")
        return np.stack([self.predict(self.encode([sample]), key).values for sample in samples])

    def decode(self, token_ids: Sequence[int], unnorm_key: str | None = None, processor: Mapping[str, Any] | None = None) -> np.ndarray:
        """The actions (steps, a) that tokens stand for, in the dataset's own units; see `ActionTokens` for what it raises.

        `processor` describes the tokens where neither checkpoint nor card does.
        """
        return self._action_tokens(processor or {}).decode(token_ids, unnorm_key)

    def published_state(self) -> dict[str, Tensor]:
        directory = self.subject.weights.directory
        return published_to_native(read_safetensors(directory), self.model.config, directory)

    def final_norm(self, point: Point) -> Norm:
        if point.stack != "lm":
            return super().final_norm(point)
        norm = self.model.language_model.model.norm
        return Norm("rms", 1.0 + norm.weight.float(), None, norm.eps)

    @cached_property
    def processor(self) -> Mapping[str, Any]:
        """The checkpoint's saved processor, or what the card says of one in `processor_config`: intrinsics, bins, statistics."""
        return self._saved("processor_config.json") or self.subject.config.get("processor_config", {})

    @cached_property
    def resample(self) -> int:
        """Pillow's number of the filter that pictures are resized with; bicubic, as PaliGemma's, where the checkpoint says nothing."""
        return self._saved("preprocessor_config.json").get("resample", 3)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The checkpoint's own tokenizer; None, for stand-in words, where the vocabulary is too small to be Gemma's.

        Raises MissingError when a published-size checkpoint comes without its tokenizer.
        """
        directory, vocabulary = self.subject.weights.directory, self.model.config.text.vocab_size
        if directory is not None and any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
            return AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if directory is not None and vocabulary > GEMMA_VOCABULARY:
            advice = "copy it from the published repository"
            raise MissingError("the checkpoint has no tokenizer", where=directory, expected="tokenizer.json", next=advice)
        return None

    def _action_tokens(self, processor: Mapping[str, Any]) -> ActionTokens:
        """Raises MissingError where neither checkpoint nor card nor `processor` describes action tokens."""
        described = self.processor if self.processor.get("action_config") else processor
        where = self.subject.weights.directory or self.subject.id
        return ActionTokens.from_processor(described, self.model.config.action_token_begin_idx, where)

    def _saved(self, name: str) -> dict[str, Any]:
        directory = self.subject.weights.directory
        return read_json(directory / name) if directory is not None and (directory / name).is_file() else {}

    def _ids(self, instruction: str) -> list[int]:
        """[<image> x patches][BOS][prompt] newline (processing_spatialvla.py:146-156)."""
        style, config = self.subject.options.get("prompt", "spatialvla"), self.model.config
        if style not in PROMPTS:
            raise UnknownNameError("prompt style", style, PROMPTS, where=f"card {self.subject.model}, field options.prompt")
        prompt = f"{PROMPTS[style](instruction)}\n"
        if self.tokenizer is None:
            reserved = [config.image_token_index, *([config.action_token_begin_idx] if config.use_spatial_token else [])]
            words = word_ids(prompt, min(reserved))
        else:
            words = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return [config.image_token_index] * config.patches + [config.bos_token_id, *words]


def _clauses(config: SpatialVLAConfig) -> dict[Point, Clause]:
    """Every point of the network in the order it runs."""
    vision, text = config.vision, config.text
    clauses = stack_clauses(
        "vision",
        blocks="vision_tower.encoder.layers",
        depth=vision.num_hidden_layers,
        width=vision.hidden_size,
        embedding="vision_tower.embeddings",
        norm="vision_tower.post_layernorm",
        ties_last=False,
    )
    if config.use_vision_zoe:
        clauses[Point("ego3d", "input")] = Clause("position_embedding_3d", "input", 3 * config.ego3d_patch_reso**2, "raw")
        clauses[Point("ego3d", "output")] = Clause("position_embedding_3d", "output", vision.hidden_size, "raw")
    clauses[Point("projector", "input")] = Clause("multi_modal_projector", "input", vision.hidden_size, "raw")
    clauses[Point("projector", "output")] = Clause("multi_modal_projector", "output", text.hidden_size, "raw")
    clauses[Point("lm", "embedding")] = Clause("language_model.model.layers.0", "input", text.hidden_size, "raw", 0)
    return clauses | stack_clauses(
        "lm",
        blocks="language_model.model.layers",
        depth=text.num_hidden_layers,
        width=text.hidden_size,
        embedding=None,
        norm="language_model.model.norm",
        ties_last=True,
    )
