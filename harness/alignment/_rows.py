"""One side of a comparison: rows of features from a file, a folder of an extraction, or the store."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.alignment._files import is_file, read_rows
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.store import Key, Store, StoreWarning
from harness.types import Point

__all__ = ["Rows", "entry_rows", "open_rows", "sibling_entries", "told_of", "unique_labels"]

DIGITS = re.compile(r"(?P<key>[0-9a-f]{4,32})(?::(?P<point>[a-z].*))?")
TOLD = "extraction_metadata.json"


@dataclass(frozen=True)
class Rows:
    """Features (n, d) with the name they were asked by, where they lie, and the sample of every row where that is known.

    `labels` name them ever more precisely; `folder` is where a file lies, for what stands beside it.
    """

    values: np.ndarray
    asked: str
    where: str
    labels: tuple[str, ...]
    folder: Path | None = None
    sample_ids: tuple[str, ...] | None = None
    dataset: str = ""
    notes: tuple[str, ...] = ()


def open_rows(text: str, store: Store, *, names: Sequence[str] = ("feats_A.pt",)) -> Rows:
    """The rows that `text` means: a file, FILE:MEMBER, a folder that holds one of `names`, or KEY or KEY:POINT of the store.

    Raises MissingError, DamagedError, UsageError, UnknownNameError.
    """
    if Path(text).is_dir():
        return _file(_inside(Path(text), names), text)
    if is_file(text):
        return _file(text, text)
    if match := DIGITS.fullmatch(text):
        return _entry(text, match["key"], match["point"], store)
    expected = "a file (.pt, .pth, .npy, .npz:MEMBER), a folder of an extraction, or a key of the store"
    raise MissingError("there are no features here", where=text, expected=expected, next="harness store list shows the keys of the store")


def unique_labels(rows: Sequence[Rows]) -> tuple[str, ...]:
    """One name for each: the first of its labels, and of those that are alike the first that tells them apart. Raises UsageError."""
    if twice := sorted({one.where for one in rows if sum(one.where == other.where for other in rows) > 1}):
        raise UsageError("features are given twice", got=twice[0], expected="every set once")
    levels = [0] * len(rows)
    while True:
        chosen = [one.labels[level] for one, level in zip(rows, levels, strict=True)]
        alike = [index for index, label in enumerate(chosen) if chosen.count(label) > 1]
        if not alike:
            return tuple(chosen)
        levels = [min(level + (index in alike), len(rows[index].labels) - 1) for index, level in enumerate(levels)]


def told_of(folder: Path) -> Mapping[str, Any]:
    """What an extraction says of the tensor beside it; empty where it says nothing. Raises DamagedError."""
    path = folder / TOLD
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedError("a file of metadata is not readable", where=path, got=error, expected="a JSON object") from error
    return told if isinstance(told, dict) else {}


def sibling_entries(key: str, store: Store) -> dict[Point, dict[str, Any]]:
    """The sidecars of every point that was taken in the same extraction, by point, in order. Raises UnknownNameError, UsageError."""
    chosen = store.find(key)
    same = [entry for entry in store.entries() if _but_point(entry) == _but_point(chosen)]
    return dict(sorted((Point.parse(entry["parts"]["point"]), entry) for entry in same))


def entry_rows(entry: Mapping[str, Any], asked: str, store: Store) -> Rows:
    """The rows of one entry, checked against its digests. Raises DamagedError, MissingError."""
    parts, where = entry["parts"], f"{store.root}, {entry['key']}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", StoreWarning)  # it says that the entry is made anew, which nobody does here
            found = store.read(Key(**parts))
    except (StoreWarning, TypeError) as error:  # TypeError: a key of another version has other parts
        advice = "harness extract makes it anew; harness store verify reads every entry"
        raise DamagedError("an entry of the store is not readable", where=where, got=str(error).splitlines()[0], next=advice) from error
    if found is None:
        raise MissingError("an entry of the store is gone", where=where, next="harness store list")
    label = f"{parts['subject']} {parts['point']}"
    labels = (label, f"{label} {parts['pooling']}", f"{label} {entry['key'][:12]}", f"{label} {entry['key']}")
    return Rows(found.values, asked, entry["key"], labels, sample_ids=found.sample_ids, dataset=parts["dataset"])


def _entry(asked: str, key: str, point: str | None, store: Store) -> Rows:
    if point is None:
        return entry_rows(store.find(key), asked, store)
    entries, wanted = sibling_entries(key, store), Point.parse(point)
    if wanted not in entries:
        raise UnknownNameError("point of this extraction", point, map(str, entries), where=key)
    return entry_rows(entries[wanted], asked, store)


def _but_point(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry["parts"].items() if name != "point"}


def _inside(folder: Path, names: Sequence[str]) -> str:
    for name in names:
        if (folder / name).is_file():
            return str(folder / name)
    below = sorted(path.parent.name for path in folder.glob(f"*/{names[-1]}"))
    got = f"folders of {len(below)} points: {', '.join(below[:12])}" if below else "no such file"
    advice = f"name one of them: {folder / below[0]}" if below else "harness extract --layout features --output_dir DIR makes feats_A.pt"
    raise MissingError("this folder holds no one set of features", where=folder, got=got, expected=" or ".join(names), next=advice)


def _file(text: str, asked: str) -> Rows:
    found, path = read_rows(text), Path(os.path.abspath(text))  # a link keeps its name: document 004 links its data
    told = told_of(path.parent) if path.name == "feats_A.pt" else {}
    ids = told.get("sample_ids")
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(found.values) or len(set(ids)) != len(ids)):
        got = f"{len(ids)} sample ids for {len(found.values)} rows" if isinstance(ids, list) else type(ids).__name__
        raise DamagedError("the metadata beside the features are of another extraction", where=path.parent / TOLD, got=got, expected="one id for every row")
    notes = (found.note,) if found.note else ()
    return Rows(found.values, asked, str(path.resolve()), _labels(path), path.parent, None if ids is None else tuple(map(str, ids)), notes=notes)


def _labels(path: Path) -> tuple[str, ...]:
    """The folder's name, as document 004 labels a model; then with the file's name, with more folders, and the whole path."""
    folders = path.parts[1:-1]
    stem = path.name if ":" in path.name else path.stem
    above = ["/".join(folders[start:]) for start in reversed(range(len(folders)))]
    return (*(label for folder in above for label in (folder, f"{folder}/{stem}")), str(path.resolve()))
