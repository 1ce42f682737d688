"""Which episode every row is of, from the metadata.json of document 004."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.errors import DamagedError, MissingError, UsageError

__all__ = ["Episodes", "numbers", "read_episodes"]


class Episodes(NamedTuple):
    """The episode of every sample of a data set (n,), as numbers from 0, in the order of its rows."""

    path: Path
    of_row: np.ndarray

    @property
    def count(self) -> int:
        return len(np.unique(self.of_row))

    def of(self, rows: int, sample_ids: tuple[str, ...] | None, where: object) -> np.ndarray:
        """The episode of each of `rows` rows: by number where their ids are numbers of rows, else all rows in order. Raises UsageError."""
        numbered = numbers(sample_ids)
        if numbered is not None and numbered.max(initial=0) < len(self.of_row):
            return self.of_row[numbered]
        if rows != len(self.of_row):
            got, expected = f"{rows} rows of {where} and {len(self.of_row)} samples", "one sample for every row"
            raise UsageError("the metadata do not describe these features", where=self.path, got=got, expected=expected, next="--metadata names another file")
        return self.of_row


def numbers(sample_ids: tuple[str, ...] | None) -> np.ndarray | None:
    """The rows that ids such as 000012 name, as the image_folder reader gives them; None for other ids."""
    if sample_ids is None or not all(name.isdecimal() for name in sample_ids):
        return None
    return np.array([int(name) for name in sample_ids], dtype=np.int64)


def read_episodes(path: Path) -> Episodes:
    """The list `episode_indices` of a metadata.json. Raises MissingError, DamagedError."""
    if not path.is_file():
        raise MissingError("there is no metadata file", where=path, expected="a metadata.json with the list episode_indices")
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["episode_indices"]
        if not isinstance(listed, list) or not all(isinstance(entry, int | str) for entry in listed):
            raise TypeError("episode_indices is no list of numbers or names")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError("a metadata file tells no episodes", where=path, got=repr(error), expected="a JSON object with the list episode_indices") from error
    of_row = np.unique(np.array(list(map(str, listed)), dtype=str), return_inverse=True)[1]
    return Episodes(path, of_row.astype(np.int64))
