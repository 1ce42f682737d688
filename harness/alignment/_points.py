"""All points of one extraction: the entries of a store that differ in nothing else, or a folder with a folder for every point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from harness.alignment._rows import DIGITS, Rows, entry_rows, open_rows, sibling_entries
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.store import Store
from harness.types import Point

__all__ = ["Points", "open_points"]


@final
@dataclass(frozen=True)
class Points:
    """The points of one model in their order; reading one gives its rows, which the caller lets go of."""

    label: str
    where: str
    readers: Mapping[Point, Callable[[], Rows]]

    def read(self, point: Point) -> Rows:
        """Raises MissingError, DamagedError, UsageError."""
        return self.readers[point]()

    def only(self, points: tuple[Point, ...]) -> Points:
        """The same with these points alone, all of them where none is named. Raises UnknownNameError."""
        if unknown := [str(point) for point in points if point not in self.readers]:
            raise UnknownNameError("point of this extraction", unknown[0], map(str, self.readers), where=self.where)
        return Points(self.label, self.where, {point: read for point, read in self.readers.items() if point in points or not points})


def open_points(text: str, store: Store) -> Points:
    """The points of the extraction that KEY of the store, or a folder, belongs to; nothing is read of them yet.

    Raises MissingError, UsageError, UnknownNameError.
    """
    folder = Path(text)
    if folder.is_dir():
        found = _below(folder)
        if not found:
            advice = "harness extract --layout features --point … --point …"
            raise MissingError("this folder holds no points", where=folder, expected="POINT/feats_A.pt for every point", next=advice)
        return Points(folder.resolve().name, str(folder.resolve()), {point: _reader(str(path), store) for point, path in sorted(found.items())})
    match = DIGITS.fullmatch(text)
    if match is None or match["point"]:
        raise UsageError("this is no extraction", got=text, expected="a key of the store, or a folder of points", next="harness store list")
    entries = sibling_entries(text, store)
    subject = next(iter(entries.values()))["parts"]["subject"]
    return Points(subject, text, {point: lambda entry=entry: entry_rows(entry, text, store) for point, entry in entries.items()})  # type: ignore[misc]


def _below(folder: Path) -> dict[Point, Path]:
    """Folders that are named like points and hold features."""
    found = {}
    for path in sorted(folder.glob("*/feats_A.pt")):
        try:
            found[Point.parse(path.parent.name)] = path.parent
        except UsageError:  # another folder, such as one of pictures
            continue
    return found


def _reader(folder: str, store: Store) -> Callable[[], Rows]:
    return lambda: open_rows(folder, store)
