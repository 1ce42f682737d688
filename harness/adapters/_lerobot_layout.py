"""Which of lerobot's layouts a checkpoint has, told by its tensors' names and its configuration, and our name for each tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness import checkpoints
from harness.adapters._lerobot_config import config_age
from harness.adapters._weights import refuse
from harness.errors import DamagedError
from harness.layouts.pi0 import BUFFERS, PALIGEMMA, PREFIX, new_name

__all__ = ["Layout", "layout_of", "native_name", "refuse_other_folders", "today_name", "unused"]

EMBEDDING, HEAD = f"{PALIGEMMA}model.language_model.embed_tokens.weight", f"{PALIGEMMA}lm_head.weight"
# What a checkpoint brings and an inference never reads: the expert's vocabulary, buffers that are computed, statistics for training.
UNUSED = re.compile(r".*gemma_expert\.(lm_head|model\.embed_tokens)\.weight$|.*\.rotary_emb\.inv_freq$|.*\.position_ids$|normalize_targets\.")
CONVERT = "harness convert SRC DST --to {}"
OTHERS = {  # pattern of names: what it is, what to do
    r"(.*\.)?(dit|vlm)\.|.*embed_action_time\.": ("transformers' own π0", CONVERT.format("lerobot_pi0")),
    r"PaliGemma[./]": ("openpi's π0", CONVERT.format("lerobot_pi0")),
    r"(model\.)?time_mlp_(in|out)\.": ("π0.5, whose norms are conditioned on time", CONVERT.format("openpi")),
    r".*\.lora_[abAB]|.*\.base_layer\.": ("LoRA adapters on a π0", "merge them (peft: merge_and_unload()) and save the merged policy"),
}
_NATIVE = {
    f"{PALIGEMMA}model.language_model.": "language_model.",
    f"{PALIGEMMA}model.vision_tower.vision_model.": "vision_tower.",
    f"{PALIGEMMA}model.multi_modal_projector.linear.": "projector.",
    "model.paligemma_with_expert.gemma_expert.model.": "expert.",
    PREFIX: "",
}


class Layout(NamedTuple):
    """`names` gives the stored name of every tensor that is used, by its name of today; `buffers` the statistics among the stored."""

    old: bool
    names: Mapping[str, str]
    buffers: tuple[str, ...]


def layout_of(stored: Iterable[str], config: Mapping[str, Any], where: Path) -> Layout:
    """The layout of a checkpoint with these tensors. Raises DamagedError for another family's, or for two layouts in one file.

    The age is what the configuration says, for names do not change the arithmetic (a policy of the old age that was saved with
    transformers from 4.52 on has today's names); where it says nothing, old names or statistics among the weights are old.
    """
    stored = sorted(stored)
    _refuse_others(stored, config, where)
    buffers = tuple(name for name in stored if name.startswith(BUFFERS))
    names: dict[str, str] = {}
    for name in (name for name in stored if name not in buffers):
        refuse("tensors come twice under two names", [name] if new_name(name) in names else [], where)
        names[new_name(name)] = name
    renamed = [name for today, name in names.items() if today not in (name, PREFIX + name)]
    kept = [name for today, name in names.items() if today.startswith(PALIGEMMA) and name not in renamed]
    if renamed and kept:
        got, expected = f"{renamed[0]} and {kept[0]}", "all names of before transformers 4.52, or none"
        raise DamagedError("two layouts of π0 are mixed in one checkpoint", where=where, got=got, expected=expected, next="download it again")
    age = config_age(config)
    if age == "new" and buffers:
        got, next = f"{buffers[0]}, and a configuration of the new layout", "harness convert SRC DST --to lerobot_pi0"
        raise DamagedError("statistics and configuration are of two ages of lerobot", where=where, got=got, expected="both of one", next=next)
    old = age == "old" or (age is None and bool(renamed or buffers))
    return Layout(old, names, tuple(name for name in buffers if not UNUSED.match(name)))


def unused(today: str, names: Iterable[str]) -> bool:
    """Whether a checkpoint's tensor has no place in the network: see UNUSED, and the output layer that is tied to the embedding.

    Of the two the embedding is the one that upstream reads words with; the output layer stands for it where it is missing.
    """
    return bool(UNUSED.match(today)) or (today == HEAD and EMBEDDING in names)


def native_name(today: str) -> str:
    """Our module's name for a tensor of today's name."""
    name = EMBEDDING if today == HEAD else today
    prefix = next((prefix for prefix in _NATIVE if name.startswith(prefix)), "")
    return _NATIVE.get(prefix, "") + name.removeprefix(prefix)


def today_name(native: str) -> str:
    """Today's name of one of our module's tensors."""
    prefix, own = next((prefix, own) for prefix, own in _NATIVE.items() if native.startswith(own))
    return prefix + native.removeprefix(own)


def refuse_other_folders(directory: Path) -> None:
    """Raises DamagedError for a folder in openpi's format, which has no safetensors at all."""
    if checkpoints.orbax_tree(directory) is not None:
        _other("openpi's π0", directory, CONVERT.format("lerobot_pi0"))


def _refuse_others(stored: list[str], config: Mapping[str, Any], where: Path) -> None:
    for pattern, (layout, next) in OTHERS.items():
        if any(re.match(pattern, name) for name in stored):
            _other(layout, where, next)
    if config.get("type") != "pi0":
        native = config.get("model_type") == "pi0"
        kind = config.get("type") or config.get("model_type") or "no policy of lerobot, perhaps openpi's in PyTorch"
        _other("transformers' own π0" if native else str(kind), where, CONVERT.format("lerobot_pi0"))


def _other(layout: str, where: Path, next: str) -> None:
    expected = 'lerobot\'s, with "type": "pi0" in config.json'
    raise DamagedError("this checkpoint has another layout than lerobot's π0", where=where, got=layout, expected=expected, next=next)
