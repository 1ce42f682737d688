"""A checkpoint's tensors against those its family wants."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import checkpoints, registry
from harness.adapters import Anatomy
from harness.errors import DamagedError, UnknownNameError, UsageError
from harness.inspection import _headers
from harness.types import Progress

__all__ = ["Content", "Fit", "Inspection", "Part", "Stored", "inspect"]


@dataclass(frozen=True)
class Stored:
    """One tensor as stored: `dtype` by torch's name, `bytes` of its elements, `part` as its family divides the model."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    file: str
    part: str


@dataclass(frozen=True)
class Part:
    """Size of one part of the model; a tensor stored under several names counts once."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Fit:
    """The stored tensors against those the family wants; `misshapen` maps a name to its shape here and the one wanted."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    ignored: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)


@dataclass(frozen=True)
class Content:
    """Digest over the bytes of all files, and how many of them agree with the sha256 they were published with."""

    digest: str
    published: int


@dataclass(frozen=True)
class Inspection:
    """A checkpoint by its headers. `family` is None when no adapter recognises it; `fit` is None when `unfit` says why.

    `structure` is a digest of names, shapes and dtypes in any order; `tied` are groups of names for the same weight;
    `extras` is what torch files hold beside the state dict; `content` is None unless the bytes were read.
    """

    directory: Path
    family: str | None
    model_type: str | None
    format: str
    files: Mapping[str, int]
    tensors: Mapping[str, Stored]
    parts: Mapping[str, Part]
    tied: tuple[tuple[str, ...], ...]
    fit: Fit | None
    unfit: str | None
    structure: str
    extras: tuple[str, ...] = ()
    content: Content | None = None

    @property
    def total(self) -> Part:
        return _sum(self.parts.values())

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the checkpoint: it fits, or no family can tell."""
        return self.fit is None or self.fit.holds


def inspect(
    directory: Path, *, family: str | None = None, digest: bool = False, memory: Path | None = None, progress: Progress | None = None
) -> Inspection:
    """The checkpoint in `directory`, by headers alone; with `digest` its bytes are read and held to published sha256s.

    `family` replaces the one that recognises config.json; `memory` is where content digests are remembered. Raises
    MissingError and DamagedError for files that are not whole, UsageError when several families claim the checkpoint.
    """
    directory = checkpoints.locate(directory)
    checkpoints.verify(directory)
    files = _headers.weight_files(directory)
    headers = {path.relative_to(directory).as_posix(): _headers.read(path) for path in files}
    _refuse_twins(headers, directory)
    config = _config(directory)
    chosen, anatomy, unfit = _anatomy(directory, config, family)
    tensors = {
        name: Stored(tensor.shape, tensor.dtype, tensor.bytes, file, _part(name, anatomy))
        for file, header in headers.items()
        for name, tensor in sorted(header.tensors.items())
    }
    shared = defaultdict(list)
    for header in headers.values():
        for name, tensor in header.tensors.items():
            shared[tensor.storage].append(name)
    found = Inspection(
        directory=directory,
        family=chosen,
        model_type=None if config.get("model_type") is None else str(config["model_type"]),
        format="orbax" if files[0].is_dir() else "safetensors" if files[0].suffix == ".safetensors" else "torch",
        files={file: _size(directory / file) for file in headers},
        tensors=tensors,
        parts=_parts(tensors, [names[0] for names in shared.values()]),
        tied=tuple(tuple(sorted(names)) for names in shared.values() if len(names) > 1) + _tied_by(config, tensors),
        fit=None if anatomy is None else _fit(tensors, anatomy),
        unfit=unfit,
        structure=checkpoints.canonical_digest(sorted((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())),
        extras=tuple(sorted({name for header in headers.values() for name in header.extras})),
    )
    if not digest:
        return found
    agreeing = checkpoints.verify_digests(directory, progress)
    return replace(found, content=Content(checkpoints.directory_digest(directory, memory), agreeing))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


def _config(directory: Path) -> dict[str, Any]:
    """The parsed config.json, the only file of configs/, or the config.yaml of a training run; without one, that it is an orbax tree,
    or nothing. Raises DamagedError.
    """
    nested = sorted(directory.glob("configs/*.json"))
    if (path := directory / "config.json").is_file() or (len(nested) == 1 and (path := nested[0])):
        parsed = json.loads(path.read_text(encoding="utf-8"))
    elif (path := directory / "config.yaml").is_file():
        import yaml

        try:
            parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise DamagedError("config.yaml is not YAML", where=path, got=error) from error
    else:
        return {} if checkpoints.orbax_tree(directory) is None else {"format": "orbax"}
    if not isinstance(parsed, dict):
        raise DamagedError(f"{path.name} holds no names and values", where=path, got=type(parsed).__name__)
    return parsed


def _refuse_twins(headers: Mapping[str, _headers.Header], directory: Path) -> None:
    owner: dict[str, str] = {}
    for file, header in headers.items():
        if twins := sorted(owner.keys() & header.tensors.keys()):
            got = f"{len(twins)} in {owner[twins[0]]} and {file}, first {twins[0]}"
            raise DamagedError(
                "tensors are stored in two files",
                where=directory,
                got=got,
                expected="one checkpoint in a folder",
                next="keep each checkpoint in a folder of its own",
            )
        owner |= dict.fromkeys(header.tensors, file)


def _anatomy(directory: Path, config: Mapping[str, Any], forced: str | None) -> tuple[str | None, Anatomy | None, str | None]:
    """The family, what it wants, and why that is not known."""
    unasked = []
    if forced is None:
        found = []
        for name in registry.names("adapters"):
            try:
                found += [name] if registry.load("adapters", name).recognises(config) else []
            except ImportError:  # a family whose optional packages are not installed cannot claim it
                unasked.append(name)
        if len(found) > 1:
            raise UsageError(
                "several families recognise the checkpoint",
                where=directory,
                got=", ".join(found),
                expected="one",
                next=f"--family {found[0]}",
            )
        if not found:
            kind = f"model_type {config['model_type']!r}" if "model_type" in config else "no model_type" if config else "no config.json"
            silent = f"; could not be imported and asked: {', '.join(unasked)}" if unasked else ""
            known = ", ".join(registry.names("adapters"))
            return None, None, f"no adapter recognises this checkpoint ({kind}){silent}; --family NAME forces one of {known}"
        (forced,) = found
    try:
        return forced, registry.load("adapters", forced).anatomy(directory), None
    except UnknownNameError:
        raise
    except UsageError as error:
        return forced, None, error.what


def _part(name: str, anatomy: Anatomy | None) -> str:
    """The family's part of a tensor; without a family, the first word of its name."""
    if anatomy is None:
        return name.partition(".")[0]
    return next((part for part, pattern in anatomy.parts.items() if re.match(pattern, name)), "other")


def _sum(parts: Iterable[Part]) -> Part:
    listed = list(parts)
    return Part(*(sum(getattr(part, field) for part in listed) for field in ("tensors", "parameters", "bytes")))


def _parts(tensors: Mapping[str, Stored], distinct: Iterable[str]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for name in distinct:
        stored = tensors[name]
        parts[stored.part] = _sum([parts.get(stored.part, Part(0, 0, 0)), Part(1, math.prod(stored.shape), stored.bytes)])
    return dict(sorted(parts.items(), key=lambda item: -item[1].bytes))


def _tied_by(config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> tuple[tuple[str, ...], ...]:
    """The output head that is not stored because the configuration ties it to the input embedding."""
    said = [part.get("tie_word_embeddings") for part in (config, config.get("text_config")) if isinstance(part, Mapping)]
    embeddings = [name for name in tensors if re.search(r"(embed_tokens|word_embeddings|wte|shared)\.weight$", name)]
    if True not in said or len(embeddings) != 1 or any(name.endswith("lm_head.weight") for name in tensors):
        return ()
    return ((embeddings[0], "lm_head.weight (not stored: tie_word_embeddings)"),)


def _fit(tensors: Mapping[str, Stored], anatomy: Anatomy) -> Fit:
    ignored = {name for name in tensors if re.match(anatomy.ignored, name)}
    given = tensors.keys() - ignored
    wanted = {name: tuple(shape) for name, shape in anatomy.shapes.items()}
    misshapen = {name: (tensors[name].shape, wanted[name]) for name in sorted(given & wanted.keys()) if tensors[name].shape != wanted[name]}
    return Fit(tuple(sorted(wanted.keys() - tensors.keys())), tuple(sorted(given - wanted.keys())), misshapen, tuple(sorted(ignored)))
