"""The files of a report: `report.json`, from which `report.md` and `index.html` can be rendered again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.errors import DamagedError, MissingError
from harness.report import html, markdown
from harness.report._schema import Report

__all__ = ["read", "write"]

_NEXT = "pytest checks/ writes a new report"


def write(report: Report, folder: Path) -> None:
    """Writes the three files into `folder`, each whole or not at all; all are rendered before the first is replaced.

    Raises ValueError where `report` holds a NaN or an infinity that `build` would have stored as a string.
    """
    texts = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown.render(report),
        "index.html": html.render(report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _replace(folder / name, text)


def read(path: Path) -> Report:
    """The report in a `report.json`. Raises MissingError where there is none, DamagedError where it is something else."""
    if not path.is_file():
        raise MissingError("there is no report here", where=path, expected="a report.json", next=_NEXT)
    try:
        report = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise DamagedError("a report is not JSON", where=path, got=error, expected="a report.json, written whole", next=_NEXT) from error
    try:
        TypeAdapter(Report).validate_python(report)
    except ValidationError as error:
        first, *others = error.errors()
        field = ".".join(str(part) for part in first["loc"]) or "the file itself"
        more = f" (and {len(others)} more)" if others else ""
        raise DamagedError(f"a report is not one at {field}{more}", where=path, got=repr(first["input"])[:80], expected=first["msg"], next=_NEXT) from error
    return report


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
