"""Cards: TOML descriptions of models and datasets, validated on reading, found in every folder of the search path."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import DamagedError, MissingError, UnknownNameError
from harness.types import Scale

__all__ = ["DatasetCard", "ModelCard", "ScaleCard", "Trait", "dataset_card", "dataset_cards", "model_card", "model_cards", "parse_toml"]


# What a finding may ask of a model: `instruction`, `images`, `several_images`, `state` are inputs, `hidden_states` a framework
# tuple, `sdpa` a second attention kernel, `actions` a predicted action, the rest structure.
Trait = Literal["instruction", "images", "several_images", "state", "final_norm", "hidden_states", "causal", "layer_scale", "sdpa", "actions"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ScaleCard(_Strict):
    """One scale of a model: configuration merged over the card's own, and where its weights come from."""

    config: dict[str, Any] = {}
    seed: int | None = Field(default=None, description="random weights from this seed")
    like: Scale | None = Field(default=None, description="take configuration and tokenizer from this scale's checkpoint")
    path: str | None = Field(default=None, description="a checkpoint directory, relative to the card")
    package: str | None = Field(default=None, description="distribution that carries the weights, as name==version")
    file: str | None = Field(default=None, description="file or folder inside the installed package")
    convert: str | None = Field(default=None, description="converter from that file to the family's format")
    repo: str | None = Field(default=None, description="published repository, for the command that fetches it")
    marker: Literal["mock", "real", "gpu"] | None = Field(default=None, description="pytest marker, if not the scale's own")


class ModelCard(_Strict):
    """A published or shipped model: its family, source, licence, documented sizes and the scales it can be had at."""

    name: str
    family: str
    title: str
    source: str
    licence: str
    documented: dict[str, int | float | str | list[int]] = {}
    config: dict[str, Any] = {}
    options: dict[str, Any] = {}
    traits: list[Trait] = Field(default=[], description="what contract findings may ask of it")
    scales: dict[Scale, ScaleCard]
    folder: Path = Path()


class DatasetCard(_Strict):
    """A dataset: its reader, the reader's options, source and licence. `path` is relative to the card."""

    name: str
    reader: str
    title: str
    source: str
    licence: str
    path: str | None = None
    options: dict[str, Any] = {}
    folder: Path = Path()


_Model = TypeVar("_Model", bound=BaseModel)


def parse_toml(path: Path, schema: type[_Model], **extra: Any) -> _Model:
    """The file at `path` as a `schema`. Raises DamagedError naming the file, the field and what was expected there."""
    try:
        return schema.model_validate({**tomllib.loads(path.read_text(encoding="utf-8")), **extra})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DamagedError("a card is not valid TOML", where=path, got=error, next=f"fix {path.name} and run again") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(
            "a card does not follow its schema",
            where=f"{path}, field {'.'.join(map(str, first['loc'])) or '(top level)'}",
            got=f"{first.get('input')!r:.120}" + (f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""),
            expected=f"{first['msg']}; fields are {', '.join(schema.model_fields)}",
        ) from error


def model_cards() -> Mapping[str, ModelCard]:
    """Every model card on the search path by name; a later folder overrides an earlier one."""
    return _cards(_search_path(), "models", ModelCard)


def dataset_cards() -> Mapping[str, DatasetCard]:
    """Every dataset card on the search path by name."""
    return _cards(_search_path(), "datasets", DatasetCard)


def model_card(name: str) -> ModelCard:
    """The card of model `name`. Raises UnknownNameError, DamagedError."""
    if name not in (cards := model_cards()):
        raise UnknownNameError("model", name, cards, next="harness doctor lists the models and what each needs")
    return cards[name]


def dataset_card(name: str) -> DatasetCard:
    """The card of dataset `name`. Raises UnknownNameError, DamagedError."""
    if name not in (cards := dataset_cards()):
        raise UnknownNameError("dataset", name, cards)
    return cards[name]


def _search_path() -> tuple[Path, ...]:
    """This package, then `$HARNESS_CARDS` (separated like PATH), then `fixtures/cards` of the working directory."""
    named = [Path(entry) for entry in os.environ.get("HARNESS_CARDS", "").split(os.pathsep) if entry]
    for folder in named:
        if not folder.is_dir():
            raise MissingError("a folder of cards is not there", where=folder, got="named by $HARNESS_CARDS", expected="a folder with models/ or datasets/")
    return tuple(folder.resolve() for folder in (Path(__file__).parent, *named, Path("fixtures/cards")) if folder.is_dir())


@lru_cache
def _cards(folders: tuple[Path, ...], kind: str, schema: type[_Model]) -> dict[str, _Model]:
    found = {}
    for folder in folders:
        for path in sorted((folder / kind).glob("*.toml")):
            card = parse_toml(path, schema, folder=path.parent)
            if card.name != path.stem:
                raise DamagedError("a card is named like its file", where=f"{path}, field name", got=card.name, expected=path.stem)
            found[card.name] = card
    return found
