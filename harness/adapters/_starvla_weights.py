"""Checkpoints of StarVLA, strictly: a published Qwen-VL folder, or a training run of StarVLA.

A run (starVLA, the trainer's `_save_checkpoint` and `model/framework/share_tools.py`, `read_mode_config`) is `config.yaml`
beside `checkpoints/steps_N_pytorch_model.pt` or `checkpoints/steps_N_model.safetensors`, or `final_model/pytorch_model.pt`.
Its tensors are the vision-language model's under `qwen_vl_interface.model.` and the action model's; configuration and
tokenizer are those of the base model that `framework.qwenvl.base_vlm` names.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedConfig

from harness.adapters._starvla import QwenVL, build_config
from harness.adapters._weights import published_tensors, random_state, read_json, refuse, sound
from harness.errors import ContractError, DamagedError, MissingError

__all__ = ["Checkpoint", "anatomy_shapes", "build_random", "find", "load", "native_shapes", "native_state", "published"]

PREFIX = "qwen_vl_interface.model."
OTHERS = r"(?!qwen_vl_interface\.)"  # the action model and whatever else a framework adds around the language model
NOTHING = r"(?!)"
HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
# Names before transformers 4.52, which the published files keep, to today's (transformers 5.23, conversion_mapping).
_RENAMED = [
    (r"^qwen_vl_interface\.model\.", ""),
    (r"^visual\.", "model.visual."),
    (r"^model\.(?!language_model\.|visual\.)", "model.language_model."),
]


class Checkpoint(NamedTuple):
    """Where things are: weight `file` of a run (None: the safetensors of `base`), the base model's folder, the run's settings."""

    directory: Path
    base: Path
    file: Path | None
    settings: Mapping[str, Any]

    @property
    def ignored(self) -> str:
        """A pattern of the stored names that this family does not use."""
        return NOTHING if self.file is None else OTHERS

    @property
    def cot_prompt(self) -> str | None:
        """The prompt the run was trained with, `{instruction}` in it standing for the instruction; None for the bare one."""
        return ((self.settings.get("datasets") or {}).get("vla_data") or {}).get("CoT_prompt")


def find(directory: Path) -> Checkpoint:
    """The checkpoint in `directory`, by its files' names alone. Raises MissingError for a run without weights or base model."""
    run = path if (path := directory / "config.yaml").is_file() else directory / "config.json"
    settings = _yaml(run) if run.suffix == ".yaml" else read_json(run)
    if "framework" not in settings:
        return Checkpoint(directory, directory, None, {})
    patterns = ("checkpoints/*_model.pt", "checkpoints/*_model.safetensors", "final_model/pytorch_model.pt")
    files = [file for pattern in patterns for file in directory.glob(pattern)]
    if not files:
        raise MissingError("the training run holds no weights", where=directory, expected="checkpoints/steps_N_pytorch_model.pt")
    return Checkpoint(directory, _base(directory, settings, run), max(files, key=_progress), settings)


def _progress(file: Path) -> tuple[int, str]:
    """Orders a run's files: the most steps last, the final model behind them all."""
    steps = re.match(r"steps_(\d+)_", file.name)
    return (int(steps[1]) if steps else 10**12, file.name)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path.name} is not YAML", where=path, got=error) from error
    if not isinstance(parsed, dict):
        raise DamagedError(f"{path.name} is no YAML mapping", where=path, got=type(parsed).__name__)
    return parsed


def _base(directory: Path, settings: Mapping[str, Any], where: Path) -> Path:
    """The base model's folder inside the run, under its own name, where the run's digest covers it. Its weights are not needed."""
    named, field = ((settings.get("framework") or {}).get("qwenvl") or {}).get("base_vlm"), f"{where}, field framework.qwenvl.base_vlm"
    if not isinstance(named, str) or not Path(named).name:
        raise DamagedError("the run does not name its base model", where=field, got=named, expected="a folder or repository")
    folder = directory / Path(named).name
    if not (folder / "config.json").is_file():
        raise MissingError(
            "the base model of the run is not beside it",
            where=field,
            got=named,
            expected=f"{folder} with config.json, tokenizer and preprocessor_config.json",
            next=f"copy these small files of {named} there",
        )
    return folder


def _native_name(published: str) -> str:
    for pattern, replacement in _RENAMED:
        published = re.sub(pattern, replacement, published)
    return published


def _stored(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a run's weight file by its published name, memory-mapped. Raises DamagedError unless it is whole."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118, safe_open is no mapping
                    yield name, opened.get_tensor(name)
            return
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        said = str(error).splitlines()[0]
        raise DamagedError("truncated or malformed weight file", where=file, got=said, next="download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DamagedError("a weight file holds something else than named tensors", where=file, got=type(state).__name__)
    yield from state.items()


def published(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Every tensor this family uses under its published name, each checked, cast and placed on its own."""
    if checkpoint.file is None:
        return published_tensors(checkpoint.directory, dtype=dtype, device=device)
    return {
        name: sound(stored, name, checkpoint.file, dtype).to(device, copy=True)
        for name, stored in _stored(checkpoint.file)
        if not re.match(OTHERS, name)
    }


def _stored_names(checkpoint: Checkpoint) -> list[str]:
    """Names of all stored tensors; no weight is read."""
    if checkpoint.file is not None and checkpoint.file.suffix == ".pt":
        return [name for name, _ in _stored(checkpoint.file)]
    files = [checkpoint.file] if checkpoint.file is not None else sorted(checkpoint.directory.glob("*.safetensors"))
    names: list[str] = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names += opened.keys()
    return names


def native_shapes(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the network, but for an output layer that is the embedding once more."""
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in QwenVL(config, attention="eager", dtype=torch.float32).vlm.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def anatomy_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """What `native_shapes` wants, in the spelling of the checkpoint's own names; a tied output layer only where it is stored."""
    config = build_config(read_json(checkpoint.base / "config.json"), checkpoint.base / "config.json")
    shapes = native_shapes(config)
    spelled = {_native_name(name): name for name in _stored_names(checkpoint) if not re.match(checkpoint.ignored, name)}
    if HEAD in spelled:
        shapes[HEAD] = shapes[EMBEDDING]
    return {spelled.get(name, name): shape for name, shape in shapes.items()}


def native_state(state: Mapping[str, Tensor], config: PreTrainedConfig, where: object) -> dict[str, Tensor]:
    """`state` under the names of transformers' module, without the tied output layer.

    Raises: DamagedError naming the first ten tensors that are missing, unexpected, of another shape, or tied and different.
    """
    shapes = native_shapes(config)
    found = {_native_name(name): tensor for name, tensor in state.items()}
    head = found.pop(HEAD, None) if config.tie_word_embeddings else None
    if head is not None and EMBEDDING in found and not torch.equal(head, found[EMBEDDING]):
        raise DamagedError("config.json ties the output layer to the embedding, and the file has two different ones", where=where, got=HEAD)
    refuse("tensors missing from the checkpoint", sorted(shapes.keys() - found.keys()), where)
    refuse("tensors the network has no place for", sorted(found.keys() - shapes.keys()), where)
    wrong = [f"{name} {tuple(x.shape)}, not {shapes[name]}" for name, x in found.items() if tuple(x.shape) != shapes[name]]
    refuse("tensors of another shape than config.json describes", sorted(wrong), where)
    return found


def _assigned(config: PreTrainedConfig, state: Mapping[str, Tensor], *, attention: str, dtype: torch.dtype) -> QwenVL:
    """The network with `state` as its parameters, never allocated twice."""
    with torch.device("meta"):
        network = QwenVL(config, attention=attention, dtype=dtype)
    tied = {HEAD: state[EMBEDDING]} if config.tie_word_embeddings else {}
    network.vlm.load_state_dict({**state, **tied}, strict=True, assign=True)
    network.vlm.tie_weights()
    # No checkpoint holds these, and a meta build leaves them empty: rotary frequencies, float32 in every dtype.
    device, visual, language = state[EMBEDDING].device, network.vlm.model.visual, network.language_model
    visual.rotary_pos_emb = type(visual.rotary_pos_emb)(visual.config).to(device)
    language.rotary_emb = type(language.rotary_emb)(language.config).to(device)
    if empty := [name for name, x in (*network.named_parameters(), *network.named_buffers()) if x.is_meta]:
        raise ContractError("tensors were left without values after the load", got=empty)
    return network


def load(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device | str, attention: str) -> QwenVL:
    """The checkpoint's network, every tensor accounted for and finite, before anything is computed.

    Raises: MissingError for a file that is not there; DamagedError for one that is truncated, of another family, not
    finite, or whose tensors are not exactly those that `config.json` describes.
    """
    config = build_config(read_json(checkpoint.base / "config.json"), checkpoint.base / "config.json")
    state = native_state(published(checkpoint, dtype=dtype, device=device), config, checkpoint.file or checkpoint.directory)
    return _assigned(config, state, attention=attention, dtype=dtype)


def build_random(config: PreTrainedConfig, *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu", attention: str) -> QwenVL:
    """A network with `random_state` as its weights."""
    return _assigned(config, random_state(native_shapes(config), seed=seed, dtype=dtype, device=device), attention=attention, dtype=dtype)
