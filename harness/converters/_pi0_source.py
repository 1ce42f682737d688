"""A π0 checkpoint of any layout as canonical tensors, and what else its folder says of the model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness import checkpoints
from harness.converters._pi0_facts import GIVEN, Facts, Given, heads_of
from harness.converters._pi0_files import LEFTOVERS, RECORD, read_json
from harness.errors import DamagedError, MissingError, UnknownNameError
from harness.layouts import orbax, tensors
from harness.layouts.pi0 import BUFFERS, EMBEDDING, EXPERT_HEAD, HEAD, new_name, saved_name
from harness.layouts.pi0_arrays import Sizes, sizes_of_leaves, sizes_of_tensors, to_tensors
from harness.layouts.tensors import Lazy

__all__ = ["LAYOUTS", "Checkpoint", "layout_of", "open_checkpoint"]

LAYOUTS = ("openpi", "lerobot_pi0", "pi0")
_INDEX = "model.safetensors.index.json"
# What frameworks register beside the parameters and nothing is computed from: it travels with the leftovers.
_UNUSED = re.compile(r".*(rotary_emb\.inv_freq|embeddings\.position_ids|gemma_expert\.model\.embed_tokens\.weight)$")
_TORCH = ("paligemma_with_expert.", "model.paligemma_with_expert.")
_NETWORK = {
    "openpi": r"(PaliGemma|state_proj|action_|time_mlp)",
    "lerobot_pi0": r"model\.(paligemma_with_expert|state_proj|action_|time_mlp)",
    "pi0": r"(model\.|embed_action_time\.|action_out_proj)",
}


class _Stored(NamedTuple):
    """The arrays of a folder: those with a canonical name, and under their own names those without."""

    named: Mapping[str, Lazy]
    strangers: Mapping[str, Lazy]
    sizes: Sizes
    embedding: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` are the network's by canonical name; `leftovers` everything else, by canonical name or `LAYOUT:name`.

    `embedding` is the tied name, `embed_tokens` or `lm_head`, that lerobot's file has or had for the embedding.
    """

    layout: str
    directory: Path
    sizes: Sizes
    facts: Facts
    tensors: Mapping[str, Lazy]
    leftovers: Mapping[str, Lazy]
    embedding: str


def layout_of(directory: Path) -> str:
    """Which layout a folder is in, by its files. Raises MissingError without the folder, DamagedError when it is none of them."""
    if not directory.is_dir():
        raise MissingError("there is no checkpoint here", where=directory, expected="a folder of openpi, lerobot or transformers")
    if (directory / "params").is_dir():
        return "openpi"
    config = read_json(directory / "config.json")
    if config.get("model_type") == "pi0":
        return "pi0"
    if config.get("type") in ("pi0", "pi05"):
        return "lerobot_pi0"
    if (directory / "model.safetensors").is_file() and any(name.startswith(_TORCH) for name in tensors.load(directory / "model.safetensors")):
        return "lerobot_pi0"  # openpi's own PyTorch port has lerobot's names without the first `model.`
    if (directory / "_METADATA").is_file():
        what, next = "this is the params folder of an openpi checkpoint", f"harness convert {directory.parent} …"
        raise DamagedError(what, where=directory, expected="the folder above it", next=next)
    files = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "an empty folder"
    got = f"type {config.get('type')}, model_type {config.get('model_type')}" if config else files
    expected = 'params/ (openpi), config.json with "type": "pi0" (lerobot) or "model_type": "pi0" (transformers)'
    raise DamagedError("this is no π0 checkpoint of a known layout", where=directory, got=got, expected=expected)


def open_checkpoint(directory: Path, *, layout: str | None = None, given: Given | None = None, asset: str | None = None) -> Checkpoint:
    """The checkpoint in `directory`; of torch's weights nothing is read yet, openpi's are restored as a whole.

    Raises MissingError for files or sizes that are not there, DamagedError for what is no π0 or not whole, with the names.
    """
    if layout not in (None, *LAYOUTS):
        raise UnknownNameError("layout of a π0", str(layout), LAYOUTS)
    if unknown := sorted(set(given or {}) - set(GIVEN)):
        raise UnknownNameError("size", unknown[0], GIVEN)
    directory = checkpoints.locate(directory)
    layout, given, record = layout or layout_of(directory), given or {}, read_json(directory / RECORD)
    checkpoints.verify(directory, next="download the whole checkpoint folder")
    stored = _leaves(directory) if layout == "openpi" else _tensors(directory, layout, given)
    _refuse_strangers(stored.strangers, layout, directory)
    wanted = stored.sizes.tensor_shapes()
    network = {name: stored.named[name] for name in wanted if name in stored.named}
    _complete(network, wanted, directory)
    kept = tensors.load(directory / LEFTOVERS) if (directory / LEFTOVERS).is_file() else {}
    rest = {name: tensor for name, tensor in stored.named.items() if name not in network}
    filled = [name for name in record.get("filled", ()) if name in rest and not rest[name].read().any()]
    leftovers = {**kept, **{f"{layout}:{name}": tensor for name, tensor in stored.strangers.items()}}
    leftovers |= {name: tensor for name, tensor in rest.items() if name not in filled}
    facts = Facts.gather(directory, layout, stored.sizes, given, leftovers, asset)
    embedding = EMBEDDING if HEAD in leftovers else stored.embedding or record.get("embedding", HEAD)
    return Checkpoint(layout, directory, stored.sizes, facts, network, leftovers, embedding)


def _leaves(directory: Path) -> _Stored:
    arrays = {path: Lazy.of(array) for path, array in orbax.read(directory / "params").items()}
    sizes = sizes_of_leaves({path: leaf.shape for path, leaf in arrays.items()}, where=directory / "params")
    known = {leaf.path for leaf in sizes.leaves}
    return _Stored(to_tensors(arrays, sizes, where=directory / "params"), {path: leaf for path, leaf in arrays.items() if path not in known}, sizes)


def _tensors(directory: Path, layout: str, given: Given) -> _Stored:
    named, strangers, stored = {}, {}, {}
    for name, tensor in _files(directory).items():
        canonical = saved_name(name) if layout == "pi0" else new_name(name)
        if canonical in named:
            raise DamagedError("two tensors have the same place", where=directory, got=f"{name}, {canonical}", expected="one, under the old or the new name")
        (strangers if canonical is None else named)[canonical or name] = tensor
        stored[canonical] = name
    if layout == "pi0" and {HEAD, EMBEDDING} <= named.keys():
        got, expected = "lm_head and embed_tokens, one of which transformers would silently drop", "one of the two"
        raise DamagedError("the file holds two embeddings", where=directory, got=got, expected=expected)
    embedding = None if layout == "pi0" else EMBEDDING if EMBEDDING in named else HEAD
    if EMBEDDING not in named and HEAD in named:
        named[EMBEDDING] = named.pop(HEAD)
    shapes = {name: tensor.shape for name, tensor in named.items()}
    sizes = sizes_of_tensors(shapes, heads_of(directory, shapes, given), where=directory)
    known = {*sizes.tensor_shapes(), HEAD, EXPERT_HEAD}
    outside = [name for name in named if name not in known and not name.startswith(BUFFERS)]
    return _Stored(named, strangers | {stored[name]: named.pop(name) for name in outside}, sizes, embedding)


def _files(directory: Path) -> dict[str, Lazy]:
    if (directory / "model.safetensors").is_file() or not (directory / _INDEX).is_file():
        return tensors.load(directory / "model.safetensors")
    table = read_json(directory / _INDEX).get("weight_map", {})
    found: dict[str, Lazy] = {}
    for shard in sorted({Path(str(name)).name for name in table.values()}):
        found |= tensors.load(directory / shard)
    if differing := sorted(set(table) ^ set(found)):
        raise DamagedError("the index and its shards name different tensors", where=directory / _INDEX, got=", ".join(differing[:10]), expected="the same")
    return found


def _refuse_strangers(strangers: Mapping[str, Lazy], layout: str, directory: Path) -> None:
    """Raises DamagedError for arrays inside the network that it has no place for: without them it would compute something else."""
    other = [name for name in strangers if not _UNUSED.match(name)]
    if inside := sorted(name for name in other if re.match(_NETWORK[layout], new_name(name) if layout == "lerobot_pi0" else name)):
        next = "merge the LoRA weights into the base weights first" if any("lora" in name for name in inside) else None
        raise DamagedError(f"{len(inside)} arrays have no place in a π0", where=directory, got=", ".join(inside[:20]), expected="none", next=next)
    if other:
        names = ", ".join(sorted(other)[:10])
        warnings.warn(f"{directory}: {len(other)} tensors are no part of the network and are kept in {LEFTOVERS}: {names}", stacklevel=2)


def _complete(network: Mapping[str, Lazy], wanted: Mapping[str, tuple[int, ...]], directory: Path) -> None:
    if missing := [name for name in wanted if name not in network]:
        got = ", ".join(missing[:20]) + (" …" if len(missing) > 20 else "")
        raise DamagedError(f"{len(missing)} tensors are missing", where=directory, got=got, expected="none", next="download the whole checkpoint folder")
    if wrong := [f"{name} {network[name].shape} for {shape}" for name, shape in wanted.items() if network[name].shape != shape]:
        raise DamagedError(f"{len(wrong)} tensors have another shape than the rest asks for", where=directory, got=", ".join(wrong[:20]), expected="none")
