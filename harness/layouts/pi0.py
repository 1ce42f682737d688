"""The names of one π0 tensor: lerobot's through its ages, transformers' own `pi0`, and which of them belong to the network.

Everything here speaks of one name at a time; `_pi0_leaves` has the table of openpi's stacked leaves. The canonical name is the
one that lerobot gives a tensor today, with its leading `model.`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BUFFERS",
    "EMBEDDING",
    "EXPERT",
    "EXPERT_HEAD",
    "HEAD",
    "PALIGEMMA",
    "PREFIX",
    "canonical_name",
    "native_name",
    "new_name",
    "old_name",
    "saved_name",
]

PREFIX = "model."
PALIGEMMA = "model.paligemma_with_expert.paligemma."
EXPERT = "model.paligemma_with_expert.gemma_expert."
EMBEDDING = f"{PALIGEMMA}model.language_model.embed_tokens.weight"
HEAD = f"{PALIGEMMA}lm_head.weight"  # tied to the embedding; a file may hold either, or both
EXPERT_HEAD = f"{EXPERT}lm_head.weight"  # built by GemmaForCausalLM, never used
BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Statistics that the old layout kept as buffers of the policy, outside `model.`."""
_RENAMED = (  # (old, new) under PALIGEMMA; the first that fits is the one
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_NATIVE = (  # (canonical, transformers' pi0)
    (EXPERT_HEAD, "model.dit.embed_tokens.weight"),
    (f"{PALIGEMMA}model.vision_tower.vision_model.", "model.vlm.vision_tower."),
    (f"{PALIGEMMA}model.", "model.vlm."),
    (f"{EXPERT}model.", "model.dit."),
    ("model.state_proj.", "embed_action_time.state_proj."),
    ("model.action_in_proj.", "embed_action_time.action_in_proj."),
    ("model.action_time_mlp_in.", "embed_action_time.action_time_mlp_in."),
    ("model.action_time_mlp_out.", "embed_action_time.action_time_mlp_out."),
    ("model.action_out_proj.", "action_out_proj."),
)


def new_name(name: str) -> str:
    """The name that lerobot gives a tensor today (with its leading `model.`), from a name of any age. Buffers keep theirs.

    Sources: lerobot@71eff183f `_transform_state_dict_keys` (old names) and lerobot@7427f318 `from_pretrained` (the leading `model.`).
    """
    if name.startswith(BUFFERS):
        return name
    name = name if name.startswith(PREFIX) else PREFIX + name
    return _replaced(name, [(PALIGEMMA + old, PALIGEMMA + new) for old, new in _RENAMED]) or name


def old_name(name: str) -> str:
    """The name that lerobot gave a tensor up to September 2025, from its name today; `new_name` is its inverse."""
    return _replaced(name, [(PALIGEMMA + new, PALIGEMMA + old) for old, new in _RENAMED]) or name


def native_name(name: str) -> str | None:
    """The name of a canonical tensor in transformers' `pi0`, None where that model has no place for it.

    Source: transformers 5.23.0 `conversion_mapping.py`, "pi0". The tied `lm_head` has none of its own: its place is the embedding's.
    """
    return _replaced(name, _NATIVE)


def canonical_name(native: str) -> str | None:
    """The inverse of `native_name`, None for a name that transformers' `pi0` does not have."""
    return _replaced(native, [(new, old) for old, new in _NATIVE])


def saved_name(stored: str) -> str | None:
    """The canonical name of a tensor in a file that transformers' `pi0` loads, None for one that it would not.

    That library saves one network under three namings: its own modules', lerobot's with and without `model.`, there with
    `language_model.model.` and without `vision_model.` (5.23.0 reverts its mapping on saving, and not to the letter).
    """
    if (canonical := canonical_name(stored)) is not None:
        return canonical
    name, tower = new_name(stored), f"{PALIGEMMA}model.vision_tower."
    name = _replaced(name, [(f"{PALIGEMMA}model.language_model.model.", f"{PALIGEMMA}model.language_model.")]) or name
    if name.startswith(tower) and not name.startswith(f"{tower}vision_model."):
        name = f"{tower}vision_model.{name.removeprefix(tower)}"
    return name if name == HEAD or native_name(name) is not None else None


def _replaced(name: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), None)
