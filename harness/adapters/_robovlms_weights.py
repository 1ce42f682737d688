"""Weights for the RoboVLMs network: a Lightning or DDP `.pt` read strictly, or seeded random ones.

Source: RoboVLMs 8adc1d28, `robovlms/train/base_trainer.py:118-160` and `train_utils.py:82`, which load with strict=False.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2TextSinusoidalPositionalEmbedding

from harness import checkpoints
from harness.adapters._robovlms import RoboVLM
from harness.adapters._robovlms_config import PUBLISHED_KOSMOS, RoboVLMConfig
from harness.adapters._weights import random_state, read_json, refuse, sound
from harness.errors import ContractError, DamagedError, MissingError

__all__ = ["IGNORED", "build", "build_random", "load", "load_config", "native_name", "published_shapes", "stored_state", "vlm_folder"]

# The tied output layer, and the embeddings of a robot state that upstream makes and then drops from its forward.
IGNORED = r"backbone\.text_model\.lm_head\.weight$|embed_(arm_|gripper_)?state\."
PREFIX = "model."  # of the Lightning trainer, in the files as published
_LORA = re.compile(r"\.lora_|\.base_layer\.|(^|\.)base_model\.")
_WHOLE = "download the whole checkpoint folder"


def vlm_folder(directory: Path) -> Path:
    """Where a checkpoint keeps configuration and tokenizer of its vision-language model: the folder it names, or `vlm/`."""
    name = Path(_named_vlm(read_json(_config_file(directory)))).name
    return directory / (name if name and not name.startswith(".") and (directory / name).is_dir() else "vlm")


def load_config(directory: Path) -> RoboVLMConfig:
    """The configuration of the checkpoint in `directory`: `config.json`, or the only one in `configs/`.

    Without that of the vision-language model it is the published Kosmos-2's, if that is the one named. Raises: MissingError for
    an absent file, DamagedError for several, and what `RoboVLMConfig.from_dict` raises.
    """
    path, kosmos = _config_file(directory), vlm_folder(directory) / "config.json"
    config = read_json(path)
    if not kosmos.is_file() and Path(named := _named_vlm(config)).name != PUBLISHED_KOSMOS:
        raise MissingError(
            "the vision-language model's configuration is not there",
            where=kosmos,
            got=f"{named or 'a model without a name'}, not {PUBLISHED_KOSMOS}, whose sizes are known",
            expected="config.json and the tokenizer of that model; its weights are not needed",
            next=f"copy them to {kosmos.parent}",
        )
    return RoboVLMConfig.from_dict(config, read_json(kosmos) if kosmos.is_file() else {}, path)


def _config_file(directory: Path) -> Path:
    if (path := directory / "config.json").is_file():
        return path
    return _only(sorted((directory / "configs").glob("*.json")), directory, "configuration", "config.json, or one file in configs/")


def _named_vlm(config: Mapping[str, object]) -> str:
    vlm = config.get("vlm")
    return str((vlm.get("pretrained_model_name_or_path") if isinstance(vlm, Mapping) else None) or config.get("model_url") or "")


def _only(paths: list[Path], directory: Path, what: str, expected: str) -> Path:
    if not paths:
        raise MissingError(f"the checkpoint has no {what}", where=directory, expected=expected, next=_WHOLE)
    if len(paths) > 1:
        names = ", ".join(str(path.relative_to(directory)) for path in paths[:6]) + (" …" if len(paths) > 6 else "")
        next = "keep one, or name one of several .pt in the configuration's model_load_path"
        raise DamagedError(f"the checkpoint has {len(paths)} files for its {what}", where=directory, got=names, expected="one", next=next)
    return paths[0]


def weights_file(directory: Path, config: RoboVLMConfig) -> Path:
    """The `.pt` of the checkpoint: the one that `model_load_path` names if it is here, else the only one."""
    found = sorted(path for folder in (directory, directory / "checkpoints") for path in folder.glob("*.pt"))
    named = [path for path in found if path.name == Path(config.model_load_path).name]
    return _only(named or found, directory, "weights", "one .pt, here or in checkpoints/")


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a `.pt` under the names in the file, memory-mapped; nothing but tensors and plain data is ever unpickled.

    Raises DamagedError for an object that only an unsafe load would make, for a file without a state, and for what is no tensor.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        refused = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        raise DamagedError(
            f"the file holds {refused or 'an object'}, which could run code when it is loaded",
            where=path,
            got=str(error).strip().splitlines()[0],
            expected="tensors and plain data only",
            next='where you trust it: torch.save({"state_dict": torch.load(FILE, weights_only=False)["state_dict"]}, SAFE_FILE)',
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:  # torch's ways of saying that a file is no archive of its own
        got, expected = str(error).splitlines()[0], "a zip archive of torch.save"
        raise DamagedError("torch cannot read this file", where=path, got=got, expected=expected, next="download it again") from error
    kinds = [kind for kind in ("state_dict", "model_state_dict") if isinstance(content, Mapping) and isinstance(content.get(kind), Mapping)]
    if not kinds:
        got = ", ".join(map(str, list(content)[:6])) if isinstance(content, Mapping) else type(content).__name__
        raise DamagedError("the file has no state of a model", where=path, got=got, expected="state_dict or model_state_dict")
    state = content[kinds[0]]
    refuse("entries are no tensors", [str(name) for name, value in state.items() if not isinstance(value, Tensor)], path)
    return state


def native_name(published: str) -> str:
    """Our name for a tensor: without the `module.` of DDP and the `model.` of the Lightning trainer."""
    return published.replace("module.", "").removeprefix(PREFIX)


def stored_state(directory: Path, config: RoboVLMConfig) -> Mapping[str, Tensor]:
    """The tensors of the checkpoint in `directory` under the names in its file, memory-mapped: none is read before it is used."""
    return _state_dict(weights_file(directory, config))


def published_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the network by its name in the checkpoint's file, Lightning's where there is none."""
    config = load_config(directory)
    try:
        names = {native_name(name): name for name in stored_state(directory, config)}
    except MissingError:
        names = {}
    return {names.get(name, f"{PREFIX}{name}"): shape for name, shape in shapes(config).items()}


def shapes(config: RoboVLMConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the network by our names."""
    return {name: tuple(x.shape) for name, x in build(config, attention="eager", dtype=torch.float32).state_dict().items()}


def _checked(path: Path, config: RoboVLMConfig) -> dict[str, Tensor]:
    """The stored tensors of the network under our names, one for each and of its shape; DamagedError lists what does not fit."""
    stored, wanted = _state_dict(path), shapes(config)
    if lora := [name for name in stored if _LORA.search(name)]:
        got, next = f"{len(lora)} tensors such as {lora[0]}", "merge them (peft: merge_and_unload()) and save the merged model's state_dict"
        raise DamagedError("these are LoRA adapters on a base model", where=path, got=got, expected="whole weights", next=next)
    named: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if not re.match(IGNORED, native := native_name(name)):
            refuse("tensors come twice under two prefixes", [name] if native in named else [], path)
            named[native] = tensor
    refuse("tensors missing from the checkpoint", sorted(wanted.keys() - named), path)
    refuse("tensors the network has no place for", sorted(named.keys() - wanted), path)
    wrong = [f"{name} {tuple(x.shape)}, not {wanted[name]}" for name, x in named.items() if x.shape != wanted[name]]
    refuse("tensors of another shape than the configuration describes", wrong, path)
    return named


def build(config: RoboVLMConfig, *, attention: str, dtype: torch.dtype) -> RoboVLM:
    """The network without weights, on the meta device; the hand camera's modules are not there yet."""
    with torch.device("meta"):
        return RoboVLM(config, attention=attention, dtype=dtype)


def _assigned(config: RoboVLMConfig, state: Mapping[str, Tensor], *, attention: str, dtype: torch.dtype) -> RoboVLM:
    """The network with `state` as its parameters, never allocated twice."""
    model = build(config, attention=attention, dtype=dtype)
    model.load_state_dict(dict(state), strict=True, assign=True)
    # No checkpoint holds these, and a meta build leaves them empty: sinusoids (made in float32) and patch positions.
    device, text, tower = model.action_token.device, model.backbone.text_model.model, model.backbone.vision_model.model
    sizes = (text.config.max_position_embeddings, text.config.embed_dim, text.config.pad_token_id)
    text.embed_positions = Kosmos2TextSinusoidalPositionalEmbedding(*sizes).to(device, dtype)
    tower.embeddings.position_ids = torch.arange(tower.embeddings.num_positions, device=device)[None]
    if empty := [name for name, x in (*model.named_parameters(), *model.named_buffers()) if x.is_meta]:
        raise ContractError("tensors were left without values after the load", got=empty)
    model.act_head.rnn.flatten_parameters()
    model.mirror_hand_camera()
    return model


def load(directory: Path, *, dtype: torch.dtype, device: torch.device | str, attention: str) -> RoboVLM:
    """The checkpoint in `directory`, every tensor accounted for and finite, before anything is computed.

    Raises MissingError or DamagedError for a configuration or weights that are absent, doubled, not whole, unsafe, of another
    family, not finite, or whose tensors are not exactly those that the configuration describes.
    """
    checkpoints.verify(directory, next=_WHOLE)
    config = load_config(directory)
    path = weights_file(directory, config)
    state = {name: sound(tensor, name, path, dtype).contiguous().to(device) for name, tensor in _checked(path, config).items()}
    return _assigned(config, state, attention=attention, dtype=dtype)


def build_random(config: RoboVLMConfig, *, seed: int, dtype: torch.dtype, device: torch.device | str, attention: str) -> RoboVLM:
    """A network with `random_state` as its weights, scaled where the architecture scales them up again or down to nothing."""
    state = random_state(shapes(config), seed=seed, dtype=dtype, device=device)
    for name, x in state.items():
        if "act_head.rnn.weight" in name:
            x /= x.shape[1] ** 0.5
        elif name.endswith("embed_tokens.weight"):
            x /= x.shape[1] ** 0.5  # embed_scale
        elif name.endswith("image_to_text_projection.dense.weight"):
            x *= x.shape[1] ** 0.5  # features come with length one
    return _assigned(config, state, attention=attention, dtype=dtype)
