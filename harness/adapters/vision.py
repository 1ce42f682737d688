"""Vision towers through transformers: DINOv2 and its relatives, one image to one sequence of class token and patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from harness.adapters._base import Anatomy
from harness.adapters._published import auto_anatomy
from harness.adapters._transformer import TransformerAdapter, auto_model, stack_clauses
from harness.errors import UnknownNameError, UsageError
from harness.types import Batch, Runtime, Sample, Subject, TokenMap

__all__ = ["Vision"]

ARCHITECTURES = ("dinov2",)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, standard deviation per channel of images in [0, 1]


@final
class Vision(TransformerAdapter):
    """Points `vision.embedding`, `vision.NN.input`, `vision.NN.output`, `vision.final_norm`; spans `class`, `image.0`.

    The last `hidden_states` entry of these towers is the raw last block, not the final norm (transformers 5.23).
    """

    inputs_used = ("images",)
    inputs_unused = ("instruction", "state")

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("model_type") in ARCHITECTURES

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        return auto_anatomy(directory, {"vision": ""})

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> Vision:
        """Raises UnknownNameError for an architecture without a layout, and what `auto_model` raises."""
        model = auto_model(subject, runtime)
        if model.config.model_type not in ARCHITECTURES:
            raise UnknownNameError("vision architecture", model.config.model_type, ARCHITECTURES, where=subject.id)
        clauses = stack_clauses(
            "vision",
            blocks="encoder.layer",
            depth=model.config.num_hidden_layers,
            width=model.config.hidden_size,
            embedding="embeddings",
            norm="layernorm",
            ties_last=False,
        )
        return cls(subject, runtime, model, clauses)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        self.require(samples)
        side = self.subject.options.get("input_size", self.model.config.image_size)
        pixels = torch.from_numpy(np.stack([preprocess(self.pictures(sample)[0], side) for sample in samples]))
        patches = (side // self.model.config.patch_size) ** 2
        valid = torch.ones(len(samples), 1 + patches, dtype=torch.bool)
        is_class = torch.zeros_like(valid)
        is_class[:, 0] = True
        return Batch(
            tuple(sample.id for sample in samples),
            {"pixel_values": pixels.to(self.runtime.device, self.model.dtype)},
            {"vision": TokenMap(valid, {"class": is_class, "image.0": ~is_class, "padding": ~valid})},
        )

    def call(self, batch: Batch) -> dict[str, Tensor]:
        output = self.model(**batch.inputs)
        return {name: value for name, value in output.items() if isinstance(value, Tensor)}

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        return self.model, batch.inputs


def preprocess(image: np.ndarray, side: int) -> np.ndarray:
    """The image (h, w, 3) uint8 as (3, side, side) float32: shorter edge to `side` (bicubic), centre crop, ImageNet statistics.

    Raises UsageError for anything but RGB uint8.
    """
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError("this is not an RGB picture", got=f"{image.dtype} {image.shape}", expected="uint8 (height, width, 3)")
    scale = side / min(image.shape[:2])
    size = tuple(max(side, round(edge * scale)) for edge in reversed(image.shape[:2]))
    left, top = ((edge - side) // 2 for edge in size)
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    mean, std = (np.asarray(values, np.float32) for values in IMAGENET)
    return np.ascontiguousarray(((np.asarray(resized, np.float32) / 255 - mean) / std).transpose(2, 0, 1))
