"""Task instructions without images, from a JSON list, each in one or more prompt templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import DamagedError
from harness.types import Sample

__all__ = ["instructions"]


def instructions(path: Path, *, part: str = "instructions", templates: Sequence[str] = ("{}",)) -> Iterator[Sample]:
    """Yields one sample per template and entry of `part`, in file order; the group is the task the text belongs to.

    Entries are objects with `id`, `instruction` and, for rewordings, `of` (the id of the task reworded).
    Raises DamagedError when the file is not that.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))[part]
        rows = [(entry["id"], entry["instruction"], entry.get("of", entry["id"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError("an instruction file is not readable", where=path, got=repr(error), expected=f"a JSON object with a list {part!r} of {{id, instruction}}") from error
    for number, template in enumerate(templates):
        for identifier, instruction, group in rows:
            yield Sample(f"{identifier}/{number}", template.format(instruction), group=group)
