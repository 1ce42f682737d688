"""What StarVLA gives its vision-language model: pictures as patches, and a chat of one user message as token ids.

Source: starVLA `model/modules/vlm/QWen2_5.py` and `QWen3.py`, `build_qwenvl_inputs`: the pictures first, then the
instruction, the assistant's turn opened. Pictures come resized to 224 x 224 (`dataloader/gr00t_lerobot/datasets.py`,
`_pack_sample`), Pillow's default bicubic, before the model's own processor resizes to whole patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

from harness.adapters._weights import read_json
from harness.adapters._words import word_ids
from harness.errors import DamagedError, UsageError

__all__ = ["chat_ids", "chat_template", "image_processor", "patches", "stand_in_ids"]

# Published preprocessor_config.json; sizes are areas in pixels, between which a picture is scaled. Qwen3-VL enlarges 224 to 256.
PROCESSORS = {
    "qwen2_5_vl": {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "size": {"shortest_edge": 3136, "longest_edge": 12845056},
    },
    "qwen3_vl": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
}


def image_processor(config: PreTrainedConfig, directory: Path | None) -> Qwen2VLImageProcessorPil:
    """The checkpoint's saved image processing, or what the published model saves; Pillow's, so that no torchvision is needed.

    Raises DamagedError when its patches are not the network's.
    """
    vision = config.vision_config
    shape = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size, "temporal_patch_size": vision.temporal_patch_size}
    if directory is None or not any((directory / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return Qwen2VLImageProcessorPil(**PROCESSORS[config.model_type], **shape)
    processor = Qwen2VLImageProcessorPil.from_pretrained(directory, local_files_only=True)
    if (got := {name: getattr(processor, name) for name in shape}) != shape:
        raise DamagedError("image processing and network disagree on patches", where=directory, got=got, expected=shape)
    return processor


def patches(pictures: Sequence[np.ndarray], processor: Qwen2VLImageProcessorPil, side: int | None) -> tuple[Tensor, Tensor]:
    """Patches (p, values) float32 of all pictures in one sequence, and each one's grid (pictures, 3): time, rows, columns.

    `side` resizes every picture to a square of so many pixels first. Raises UsageError for anything but RGB uint8.
    """
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise UsageError("this is not an RGB picture", got=f"{picture.dtype} {picture.shape}", expected="uint8 (height, width, 3)")
    images = [Image.fromarray(picture) for picture in pictures]
    if side is not None:
        images = [image.resize((side, side)) for image in images]
    inputs = processor(images=images, return_tensors="pt")
    return inputs["pixel_values"], inputs["image_grid_thw"]


def chat_template(directory: Path) -> str | None:
    """The template saved for the processor, which wins over the tokenizer's own; None when there is none."""
    path = directory / "chat_template.json"
    return read_json(path).get("chat_template") if path.is_file() else None


def chat_ids(
    prompt: str, visual_tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, template: str | None, image_token: int
) -> list[int]:
    """Ids of the chat, each picture's placeholder repeated `visual_tokens` times. Raises UsageError for a prompt that holds one."""
    message = {"role": "user", "content": [*({"type": "image"} for _ in visual_tokens), {"type": "text", "text": prompt}]}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True, chat_template=template)
    placeholder = tokenizer.convert_ids_to_tokens(image_token)
    first, *rest = text.split(placeholder)
    if len(rest) != len(visual_tokens):
        raise UsageError(
            "the chat has another number of picture placeholders than pictures",
            got=len(rest),
            expected=len(visual_tokens),
            next=f"take {placeholder} out of the instruction",
        )
    expanded = "".join(placeholder * count + piece for count, piece in zip(visual_tokens, rest, strict=True))
    return tokenizer(first + expanded)["input_ids"]


def stand_in_ids(prompt: str, visual_tokens: Sequence[int], config: PreTrainedConfig) -> list[int]:
    """The same structure in stand-in words, for tiny networks that have no tokenizer."""
    first, last, image = config.vision_start_token_id, config.vision_end_token_id, config.image_token_id
    regular = min(first, last, image, config.video_token_id)
    pictures = [token for count in visual_tokens for token in (first, *[image] * count, last)]
    return [*word_ids("system: You are a helpful assistant. user:", regular), *pictures, *word_ids(f"{prompt} assistant:", regular)]
