"""What an inspection found, as tables for a screen and as values for JSON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from harness.inspection._difference import Difference
from harness.inspection._inspect import Fit, Inspection

__all__ = ["Table", "as_json", "tables"]


class Table(NamedTuple):
    """Rows for a screen under a title; long lists are cut and say how long they are."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_json(found: Inspection | Difference | None) -> dict[str, Any] | None:
    """The complete lists as JSON-able values, with `fits` (None when unknown) or `same` in front."""
    if found is None:
        return None
    if isinstance(found, Difference):
        return {"same": found.holds, **asdict(found)}
    fits = None if found.fit is None else found.fit.holds
    return {"fits": fits, "total": asdict(found.total), **asdict(found), "directory": str(found.directory)}


def tables(found: Inspection | Difference, limit: int = 10) -> list[Table]:
    """A screen of what was found: a summary, sizes by part, and each list cut to `limit` rows with its length."""
    return _difference_tables(found, limit) if isinstance(found, Difference) else _inspection_tables(found, limit)


def _size(count: int) -> str:
    power = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.{2 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _cut(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], limit: int) -> list[Table]:
    """The table of a list, none for an empty one."""
    if not rows:
        return []
    shown = [*rows[:limit], *([[f"… {len(rows) - limit} more", *[""] * (len(header) - 1)]] if len(rows) > limit else [])]
    return [Table(f"{title}: {len(rows)}", header, shown)]


def _inspection_tables(found: Inspection, limit: int) -> list[Table]:
    total, fit = found.total, found.fit
    summary = {
        "family": found.family or "unknown",
        "model_type": found.model_type,
        "format": found.format,
        "files": f"{len(found.files)}, {_size(sum(found.files.values()))}",
        "parameters": f"{total.parameters:,} in {total.tensors} tensors, {_size(total.bytes)}",
        "also in the files": ", ".join(found.extras),
        "ignored": f"{len(fit.ignored)} tensors that the family does not use" if fit and fit.ignored else None,
        "keys": f"not compared: {found.unfit}" if fit is None else "all as the family wants them" if fit.holds else "do not fit the family",
        "structure": found.structure,
        "content": found.content and found.content.digest,
        "published sha256": found.content and f"{found.content.published} files agree",
    }
    dtypes: dict[str, set[str]] = defaultdict(set)
    layers: dict[tuple[str, ...], list[int]] = defaultdict(list)  # blocks of a stack are shown as one
    for name, stored in found.tensors.items():
        dtypes[stored.part].add(stored.dtype)
        layers[re.sub(r"(?<=\.)\d+(?=\.)", "*", name), _shape(stored.shape), stored.dtype].append(stored.bytes)
    parts = [
        [part, str(size.tensors), f"{size.parameters:,}", _size(size.bytes), ", ".join(sorted(dtypes[part]))]
        for part, size in found.parts.items()
    ]
    largest = sorted(layers.items(), key=lambda item: -sum(item[1]))
    shapes = [[name, str(len(sizes)), shape, dtype, _size(sum(sizes))] for (name, shape, dtype), sizes in largest]
    return [
        Table(f"checkpoint {found.directory}", ["field", "value"], [[field, value] for field, value in summary.items() if value]),
        *_cut("parts", ["part", "tensors", "parameters", "size", "dtypes"], parts, max(limit, len(found.parts)) if fit else limit),
        *_cut("shapes, largest first", ["name", "tensors", "shape", "dtype", "size"], shapes, limit),
        *_cut("tied", ["name", "same weight as"], [[names[0], ", ".join(names[1:])] for names in found.tied], limit),
        *(_fit_tables(fit, limit) if fit else []),
    ]


def _fit_tables(fit: Fit, limit: int) -> list[Table]:
    misshapen = [[name, _shape(here), _shape(wanted)] for name, (here, wanted) in fit.misshapen.items()]
    return [
        *_cut("missing", ["name"], [[name] for name in fit.missing], limit),
        *_cut("unexpected", ["name"], [[name] for name in fit.unexpected], limit),
        *_cut("of another shape", ["name", "here", "wanted"], misshapen, limit),
    ]


def _difference_tables(found: Difference, limit: int) -> list[Table]:
    values = "yes" if found.comparable else f"only the {found.shared} of one name and shape" if found.shared else "no"
    summary = [["structure", "the same names, shapes and dtypes" if found.holds else "differs"], ["comparable tensor by tensor", values]]
    parts = [[part, *map(str, counts.values())] for part, counts in found.parts.items()]
    return [
        Table("difference", ["field", "value"], summary),
        *_cut("difference by part", ["part", "only in the first", "only in the second", "shapes", "dtypes"], parts, max(limit, len(parts))),
        *_cut("only in the first", ["name"], [[name] for name in found.only_first], limit),
        *_cut("only in the second", ["name"], [[name] for name in found.only_second], limit),
        *_cut("shapes", ["name", "first", "second"], [[name, _shape(a), _shape(b)] for name, (a, b) in found.shapes.items()], limit),
        *_cut("dtypes", ["name", "first", "second"], [[name, a, b] for name, (a, b) in found.dtypes.items()], limit),
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
