"""What transformers accepts from a checkpoint of one of its own models: published or new spelling, with the model's prefix or without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key, revert_weight_conversion

from harness.adapters._base import Anatomy
from harness.errors import DamagedError

__all__ = ["auto_anatomy"]


def auto_anatomy(directory: Path, parts: Mapping[str, str], kind: type = AutoModel) -> Anatomy:
    """What `kind.from_pretrained` wants of the checkpoint in `directory`, from its config.json and the stored names.

    A tensor that is stored keeps its spelling; one that is not has the published one. Raises DamagedError.
    """
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        with torch.device("meta"):
            model = kind.from_config(config, attn_implementation="eager", dtype=torch.float32)
    except (OSError, ValueError, TypeError, KeyError) as error:  # transformers' ways of saying that it does not know the configuration
        raise DamagedError(
            "transformers cannot build the model", where=directory, got=str(error).splitlines()[0], expected="config.json of a known model"
        ) from error
    native = model.state_dict()
    spelling = {name: name for name in native}
    for names in (revert_weight_conversion(model, native), _stored_names(directory)):  # the stored spelling wins
        spelling |= {own: name for name, own in _own_names(names, model).items() if own in native}
    return Anatomy({spelling[name]: tuple(tensor.shape) for name, tensor in native.items()}, parts, _ignored(model))


def _own_names(names: Iterable[str], model: PreTrainedModel) -> dict[str, str]:
    """The model's own name for each stored one, by the renaming that transformers' loader does."""
    renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
    native = model.state_dict()
    return {name: rename_source_key(name, renamings, [], model.base_model_prefix, native)[0] for name in names}


def _stored_names(directory: Path) -> list[str]:
    names = []
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names += file.keys()
    return names


def _ignored(model: PreTrainedModel) -> str:
    """Names that transformers' loader drops without a word: the class's own list, and buffers that were saved once."""
    buffers = [name for name, _ in model.named_buffers()]
    saved_once = {suffix: pattern for suffix, pattern in (
        ("rotary_emb.inv_freq", r"rotary_emb\.inv_freq"), ("position_ids", r"(^|\.)position_ids$")
    )}
    patterns = {pattern for suffix, pattern in saved_once.items() if any(name.endswith(suffix) for name in buffers)}
    patterns |= set(model._keys_to_ignore_on_load_unexpected or ())
    return "|".join(f"(?:.*(?:{pattern}))" for pattern in sorted(patterns)) or r"(?!)"
