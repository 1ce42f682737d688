"""The ids of a written plan, for the dataset that it was made for and no other."""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import DamagedError, MissingError, UsageError
from harness.readers import Stream

__all__ = ["load_plan"]


def load_plan(path: Path, stream: Stream) -> frozenset[str]:
    """The chosen ids, for `Selection.plan`.

    Raises MissingError where there is no file, DamagedError where it is no plan, UsageError where it was made for other data, options or
    another version of the reader.
    """
    again = f"harness dataset plan {stream.name} --output {path}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest, ids, chosen = content["dataset_digest"], content["ids"], sum(stratum["chosen"] for stratum in content["strata"])
    except FileNotFoundError as error:
        raise MissingError("there is no plan here", where=path, next=again) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError("a plan is not readable", where=path, got=repr(error), expected="what harness dataset plan writes", next=again) from error
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids) or len(set(ids)) != chosen or len(ids) != chosen:
        raise DamagedError("a plan's ids are not those that its strata count", where=path, expected=f"{chosen} different ids", next=again)
    if digest != stream.digest:
        made = f"a plan for {content.get('source')}, {str(digest)[:12]}"
        raise UsageError("a plan was made for another dataset", where=path, got=made, expected=f"one for {stream.name}, {stream.digest[:12]}", next=again)
    return frozenset(ids)
