"""Weights for the π0 network: a lerobot checkpoint of either age read strictly, or seeded random ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness import checkpoints
from harness.adapters._lerobot_config import PI0Config, config_age
from harness.adapters._lerobot_layout import Layout, layout_of, native_name, refuse_other_folders, today_name, unused
from harness.adapters._lerobot_network import PI0
from harness.adapters._lerobot_sizes import card_sizes, pack_model, require_heads, stored_sizes
from harness.adapters._lerobot_statistics import Statistics, buffer_statistics, processor_statistics
from harness.adapters._weights import published_tensors, random_state, read_json, refuse
from harness.errors import DamagedError

__all__ = ["Loaded", "build", "build_random", "card_config", "load", "published_shapes", "stored_state"]

SMALL = r"(model\.)?(state_proj|action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out)\."  # float32 whatever the rest is
STATISTICS = r"[\w.]+\.(mean|std|min|max|count|q\d\d)$"  # of a policy's processors, in safetensors beside the weights
NORMS = re.compile(r".*(layernorm|norm)\.weight$")


class Loaded(NamedTuple):
    model: PI0
    statistics: Statistics


class _Described(NamedTuple):
    config: PI0Config
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]  # of what is stored, by its name there


def card_config(config: Mapping[str, Any], where: object) -> PI0Config:
    """The configuration of a model that has no checkpoint."""
    return PI0Config.from_dict(config, card_sizes(config), old=config_age(config) == "old", where=where)


def build(config: PI0Config, *, attention: str, dtype: torch.dtype) -> PI0:
    """The network without weights, on the meta device."""
    with torch.device("meta"):
        return PI0(config, attention=attention, dtype=dtype)


def build_random(config: PI0Config, *, seed: int, dtype: torch.dtype, device: torch.device | str, attention: str) -> PI0:
    """A network with `random_state` as its weights: Gemma's norms about 0, for it adds 1, and words about as long as pictures."""
    model = build(config, attention=attention, dtype=dtype)
    state = random_state(_shapes(model), seed=seed, dtype=torch.float32, device=device)
    for name, x in state.items():
        if NORMS.match(name) and not name.startswith("vision_tower"):
            x -= 1
        elif name.endswith("embed_tokens.weight"):
            x /= x.shape[1] ** 0.5
    return _assigned(model, state)


def load(directory: Path, *, dtype: torch.dtype, device: torch.device | str, attention: str) -> Loaded:
    """The checkpoint in `directory`, every tensor accounted for and finite, before anything is computed.

    Raises MissingError or DamagedError for files that are absent or not whole, for another layout or two at once, for
    tensors that are missing, left over, misshapen or not finite, and for statistics that should be there.
    """
    described = _describe(directory)
    config, layout, stored = described
    names = _used(layout)
    _require_fit(names, stored, _shapes(build(config, attention="eager", dtype=torch.float32)), directory)
    require_heads(config.sizes, directory)
    model = build(config, attention=attention, dtype=dtype)
    skipped = _only({*stored} - {*names.values(), *layout.buffers})
    small = published_tensors(directory, dtype=torch.float32, device=device, ignored=rf"(?!{SMALL}|(un)?normalize_)|{skipped}")
    large = published_tensors(directory, dtype=dtype, device=device, ignored=rf"{SMALL}|(un)?normalize_|{skipped}")
    buffers, tensors = {name: small[name] for name in layout.buffers}, small | large
    statistics = buffer_statistics(buffers, config, directory) if config.old else processor_statistics(directory, config)
    return Loaded(_assigned(model, {native: tensors[name] for native, name in names.items()}), statistics)


def stored_state(directory: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, as stored."""
    names = {stored: native for native, stored in _used(_describe(directory).layout).items()}
    state = {}
    for path in _files(directory):
        with safe_open(path, framework="pt") as file:
            state |= {names[name]: file.get_tensor(name) for name in file.keys() if name in names}
    return state


def published_shapes(directory: Path) -> tuple[dict[str, tuple[int, ...]], str]:
    """Shape of every tensor of the network by its name in the checkpoint, today's where it has none; a pattern of what is not used."""
    config, layout, stored = _describe(directory)
    native = _shapes(build(config, attention="eager", dtype=torch.float32))
    names = _used(layout)
    skipped = {name for today, name in layout.names.items() if unused(today, layout.names)}
    return {names.get(name, today_name(name)): shape for name, shape in native.items()}, rf"{_only(skipped)}|(un)?normalize_|{STATISTICS}"


def _used(layout: Layout) -> dict[str, str]:
    """The stored name of every tensor of the network by ours."""
    return {native_name(today): name for today, name in layout.names.items() if not unused(today, layout.names)}


@lru_cache(maxsize=4)
def _cached_shapes(path: Path, stamp: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise DamagedError("truncated or malformed safetensors file", where=path, got=error, next="download it again") from error


def _describe(directory: Path) -> _Described:
    """Configuration and layout by the headers of the checkpoint's files alone."""
    refuse_other_folders(directory)
    checkpoints.verify(directory, next="download the whole checkpoint folder")
    config = read_json(directory / "config.json")
    stored: dict[str, tuple[int, ...]] = {}
    for path in _files(directory):
        stored |= _cached_shapes(path, (path.stat().st_mtime_ns, path.stat().st_size))
    layout = layout_of(stored, config, directory)
    sizes = stored_sizes({today: stored[name] for today, name in layout.names.items()}, config, pack_model(directory), where=directory)
    return _Described(PI0Config.from_dict(config, sizes, old=layout.old, where=directory / "config.json"), layout, stored)


def _files(directory: Path) -> list[Path]:
    """The weight files; a policy's processors keep their statistics in safetensors beside them."""
    return sorted(directory.glob("model*.safetensors"))


def _require_fit(names: Mapping[str, str], stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: Path) -> None:
    refuse("tensors missing from the checkpoint", sorted(map(today_name, wanted.keys() - names)), where)
    refuse("tensors the network has no place for", sorted(names[name] for name in names.keys() - wanted), where)
    wrong = [f"{name} {stored[name]}, not {wanted[native]}" for native, name in names.items() if stored[name] != wanted[native]]
    refuse("tensors of another shape than the configuration describes", wrong, where)


def _only(names: set[str]) -> str:
    """A pattern of exactly these names; of none, for none."""
    return "|".join(f"{re.escape(name)}$" for name in sorted(names)) or r"(?!)"


def _shapes(model: PI0) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in model.state_dict().items()}


def _assigned(model: PI0, state: Mapping[str, Tensor]) -> PI0:
    """`model` with `state` as its parameters, each in the dtype that the network keeps it in."""
    wanted = {name: x.dtype for name, x in model.named_parameters()}
    model.load_state_dict({name: x.to(wanted[name]) for name, x in state.items()}, strict=True, assign=True)
    model.requires_grad_(False)
    model.fill_buffers()
    return model
