"""Task instructions without images, from a JSON list, each in one or more prompt templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from harness.datasets._base import Rows
from harness.errors import DamagedError
from harness.types import Sample

__all__ = ["Instructions"]


@final
class Instructions(Rows):
    """One sample per template and entry of `part`, in file order; the group is the task the text belongs to.

    Entries are objects with `id`, `instruction` and, for rewordings, `of` (the id of the task reworded).
    """

    def __init__(self, path: Path, *, part: str = "instructions", templates: Sequence[str] = ("{}",)) -> None:
        super().__init__(path)
        self.part, self.templates = part, templates

    def rows(self) -> Iterator[Sample]:
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))[self.part]
            rows = [(entry["id"], entry["instruction"], entry.get("of", entry["id"])) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            expected = f"a JSON object with a list {self.part!r} of {{id, instruction}}"
            raise DamagedError("an instruction file is not readable", where=self.path, got=repr(error), expected=expected) from error
        for number, template in enumerate(self.templates):
            for identifier, instruction, group in rows:
                yield Sample(f"{identifier}/{number}", template.format(instruction), group=group)
