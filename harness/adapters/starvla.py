"""StarVLA: the features its action models are given, `hidden_states[-1]` of Qwen2.5-VL or Qwen3-VL over the whole chat.

Stacks: `projector` (each sample's visual tokens, its cameras one after the other) and `lm` (the chat: system and user turn,
pictures between their start and end tokens, instruction, the assistant's turn opened). Qwen's vision blocks see the patches
of all pictures of a batch as one sequence without an axis of samples, so they are no points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

from harness.adapters._base import Anatomy
from harness.adapters._starvla import FAMILIES, QwenVL, build_config
from harness.adapters._starvla_inputs import chat_ids, chat_template, image_processor, patches, stand_in_ids
from harness.adapters._starvla_weights import Checkpoint, anatomy_shapes, build_random, find, load, native_state, published
from harness.adapters._transformer import TransformerAdapter, right_padded, stack_clauses
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Batch, Clause, Point, Runtime, Sample, Subject, TokenMap

__all__ = ["StarVLA"]

QWEN_VOCABULARY = 151643  # regular tokens; special ones follow


@final
class StarVLA(TransformerAdapter):
    """Upstream pads on the left, for generation; here as everywhere on the right. Positions and mask leave padding out, so
    that the side changes a feature by rounding only (tested). Hidden states are computed, logits are not.

    Card options: `cameras`, `input_size` (pictures are first resized to a square of so many pixels; left out: never) and
    `cot_prompt` (`{instruction}` in it is replaced), which a training run's own CoT_prompt overrides.
    """

    inputs_used = ("images", "instruction")
    inputs_unused = ("state",)
    model: QwenVL

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        framework = config.get("framework")
        return config.get("model_type") in FAMILIES or (isinstance(framework, Mapping) and "qwenvl" in framework)

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        checkpoint = find(directory)
        language = r"(qwen_vl_interface\.model\.)?(model|lm_head)\."
        parts = {"vision": r"(.*\.)?visual\.", "language": language, "action head": r"action_model\."}
        return Anatomy(anatomy_shapes(checkpoint), parts, checkpoint.ignored)

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> StarVLA:
        """Raises DamagedError or MissingError for a checkpoint that is not whole, before anything is computed."""
        dtype, directory = getattr(torch, runtime.dtype), subject.weights.directory
        if directory is not None:
            network = load(find(directory), dtype=dtype, device=runtime.device, attention=runtime.attention)
        else:
            config = build_config(subject.config, f"card {subject.model}")
            if subject.weights.kind == "meta":
                with torch.device("meta"):
                    network = QwenVL(config, attention=runtime.attention, dtype=dtype)
            else:
                seed = subject.weights.seed or 0
                network = build_random(config, seed=seed, dtype=dtype, device=runtime.device, attention=runtime.attention)
        return cls(subject, runtime, network, _clauses(network))

    def encode(self, samples: Sequence[Sample]) -> Batch:
        self.require(samples)
        config, side = self.model.config, self.subject.options.get("input_size")
        pixels, grid = patches([picture for sample in samples for picture in self.pictures(sample)], self.processor, side)
        counts = (grid.prod(1) // config.vision_config.spatial_merge_size**2).view(len(samples), -1).tolist()
        ids, mask = right_padded([self._ids(sample.instruction, row) for sample, row in zip(samples, counts, strict=True)], self._pad)
        inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_grid_thw": grid}
        return self.batch(inputs, [sample.id for sample in samples])

    def batch(self, inputs: Mapping[str, Tensor], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch from inputs as transformers' processor gives them: ids and mask (n, t), padded on either side, patches of
        all pictures (p, values) and their grids (pictures, 3), as many for every sample. Raises UsageError when they disagree.
        """
        config = self.model.config
        ids, mask, grid = (inputs[name].cpu() for name in ("input_ids", "attention_mask", "image_grid_thw"))
        image_mask = (ids == config.image_token_id) & mask.bool()
        counts = grid.prod(1) // config.vision_config.spatial_merge_size**2
        if len(counts) % len(ids) or not torch.equal(counts.view(len(ids), -1).sum(1), image_mask.sum(1)):
            raise UsageError(
                "the chat has not one placeholder for every visual token",
                where=self.subject.id,
                got=f"{image_mask.sum(1).tolist()} by sample",
                expected=f"{counts.tolist()} by picture",
            )
        positions, _ = self.model.vlm.model.get_rope_index(
            ids, mm_token_type_ids=image_mask.int(), image_grid_thw=grid, attention_mask=mask
        )
        parameter = self.model.language_model.embed_tokens.weight
        device = parameter.device
        placed = {
            "input_ids": ids.to(device),
            "attention_mask": mask.to(device),
            "position_ids": positions.to(device),
            "image_mask": image_mask,  # this and the grids decide shapes: they stay on the host
            "pixel_values": inputs["pixel_values"].to(device, parameter.dtype),
            "image_grid_thw": grid,
        }
        return Batch(tuple(sample_ids or map(str, range(len(ids)))), placed, _tokens(mask.bool(), image_mask, counts.view(len(ids), -1)))

    def call(self, batch: Batch) -> dict[str, Tensor]:
        return {"last_hidden_state": self.model(**batch.inputs)}

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        if stack != "lm":
            raise UnknownNameError("stack with a framework tuple", stack, ["lm"])
        return self.model.language_model, self.model.prefix(**batch.inputs)

    def published_state(self) -> dict[str, Tensor]:
        checkpoint = find(self.subject.weights.directory)
        state = published(checkpoint, dtype=getattr(torch, self.runtime.dtype))
        return {f"vlm.{name}": tensor for name, tensor in native_state(state, self.model.config, checkpoint.directory).items()}

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The files the subject was loaded from; None for random weights."""
        directory = self.subject.weights.directory
        return None if directory is None else find(directory)

    @cached_property
    def processor(self) -> Qwen2VLImageProcessorPil:
        """The checkpoint's saved image processing, or what the published model saves."""
        return image_processor(self.model.config, self.checkpoint.base if self.checkpoint else None)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The checkpoint's own tokenizer; None, for stand-in words, where the vocabulary is too small to be Qwen's.

        Raises MissingError when a published-size checkpoint comes without its tokenizer.
        """
        folder = self.checkpoint.base if self.checkpoint else None
        if folder is not None and any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if folder is not None and self.model.config.text_config.vocab_size >= QWEN_VOCABULARY:
            copy = "copy it from the published repository"
            raise MissingError("the checkpoint has no tokenizer", where=folder, expected="tokenizer.json", next=copy)
        return None

    @cached_property
    def _template(self) -> str | None:
        return chat_template(self.checkpoint.base) if self.checkpoint else None

    @property
    def _pad(self) -> int:
        return 0 if self.tokenizer is None or self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def _ids(self, instruction: str, visual_tokens: Sequence[int]) -> list[int]:
        trained = self.checkpoint.cot_prompt if self.checkpoint else None
        prompt = (trained or self.subject.options.get("cot_prompt") or "{instruction}").replace("{instruction}", instruction)
        if self.tokenizer is None:
            return stand_in_ids(prompt, visual_tokens, self.model.config)
        return chat_ids(prompt, visual_tokens, self.tokenizer, self._template, self.model.config.image_token_id)


def _tokens(valid: Tensor, image_mask: Tensor, counts: Tensor) -> dict[str, TokenMap]:
    """Token maps from the valid positions, those of pictures (n, t) and the visual tokens of every camera (n, cameras)."""
    seen = torch.arange(int(counts.sum(1).max())).expand(len(counts), -1)  # (n, k): number of a visual token in its sample
    number = torch.where(image_mask, image_mask.cumsum(1) - 1, -1)
    ends = counts.cumsum(1)
    lm = {"text": valid & ~image_mask, "padding": ~valid}
    projector = {"padding": seen >= ends[:, -1:]}
    for camera, (start, end) in enumerate(zip((ends - counts).T, ends.T, strict=True)):
        lm[f"image.{camera}"] = (number >= start[:, None]) & (number < end[:, None])
        projector[f"image.{camera}"] = (seen >= start[:, None]) & (seen < end[:, None])
    return {"projector": TokenMap(~projector["padding"], projector), "lm": TokenMap(valid, lm)}


def _clauses(network: QwenVL) -> dict[Point, Clause]:
    """Every point in the order it runs. Deepstack adds visual features between the first blocks, unseen by the framework's tuple."""
    text, path = network.config.text_config, "vlm.model.language_model"
    clauses = {
        Point("projector", "output"): Clause("projector", "output", text.hidden_size, "raw"),
        Point("lm", "embedding"): Clause(f"{path}.layers.0", "input", text.hidden_size, "raw", 0),
        **stack_clauses(
            "lm",
            blocks=f"{path}.layers",
            depth=text.num_hidden_layers,
            width=text.hidden_size,
            embedding=None,
            norm=f"{path}.norm",
            ties_last=True,
        ),
    }
    for layer in range(1, 1 + len(getattr(network.config.vision_config, "deepstack_visual_indexes", ()))):
        point = Point("lm", "input", layer)
        clauses[point] = replace(clauses[point], hidden_states_index=None, continues=False)
    return clauses
