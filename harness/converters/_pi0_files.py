"""The files of a π0 checkpoint beside its weights: which there are, which travel as they are, and how JSON of them is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from harness.errors import DamagedError

__all__ = ["CAMERAS", "LEFTOVERS", "ORIGINALS", "RECORD", "SHARED", "documents", "read_json"]

LEFTOVERS, ORIGINALS, RECORD = "leftovers.safetensors", "originals", "conversion.json"
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # openpi@15a9616a models/model.py:39, in the order of the slots
SHARED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "paligemma_tokenizer.model")
"""What every layout may keep at its root: PaliGemma's tokenizer."""
_OTHER = {"params", "train_state", ORIGINALS, LEFTOVERS, RECORD, "model.safetensors.index.json", *SHARED}
_WEIGHTS = re.compile(r"(pytorch_)?(model|optimizer)\b.*\.(safetensors|bin|pt|pth)")


def documents(directory: Path) -> list[Path]:
    """Every file of a checkpoint but weights, training states, shared and hidden files and what a conversion added, relative to it."""
    found = sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return [path for path in found if path.parts[0] not in _OTHER and not path.parts[0].startswith(".") and not _WEIGHTS.fullmatch(path.parts[0])]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty where there is no such file. Raises DamagedError."""
    if not path.is_file():
        return {}
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path.name} is not JSON", where=path, got=error) from error
    if not isinstance(parsed, dict):
        raise DamagedError(f"{path.name} is no JSON object", where=path, got=type(parsed).__name__)
    return parsed
