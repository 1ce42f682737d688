"""A report as Markdown for a CI job summary: the verdict, what drifted, one table per document, what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.report import _words
from harness.report._schema import VERDICTS, FindingReport, Report

__all__ = ["render"]

_MARKS = {"reproduced": "●", "contradicted": "◆", "drifted": "▲", "unmeasured": "○"}
_COLUMNS = ("verdict", "claim", "expected", "measured", "control", "broken by")


def render(report: Report) -> str:
    """GitHub-flavoured Markdown; the same report gives the same bytes. Every text of the report is escaped."""
    parts = [f"# {_text(_words.headline(report))}"]
    if report["fault"] is not None:
        parts.append(f"> **FAULT INJECTED: {_code(report['fault'])}.** These verdicts test the harness, not the models. {_text(_words.fault_note(report))}")
    drifted = [finding for finding in report["findings"] if finding["verdict"] == "drifted"]
    if drifted:
        parts += ["## Drifted", *(part for finding in drifted for part in _drift(finding))]
    documents = {finding["document"]: finding["document_title"] for finding in report["findings"]}
    for document, title in documents.items():
        own = [finding for finding in report["findings"] if finding["document"] == document]
        own.sort(key=lambda finding: finding["verdict"] != "drifted")
        counts = ((verdict, sum(finding["verdict"] == verdict for finding in own)) for verdict in VERDICTS)
        tally = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
        parts += [f"## {_text(title)}", f"{_code(document)}: {tally}", _table(_COLUMNS, map(_row, own))]
    if absent := _words.missing(report):
        parts += ["## Not measured here", "\n".join(_absent(entry) for entry in absent)]
    circumstances = {"command": report["command"], "started": report["created"], "duration": _words.duration(report["seconds"]), "harness": report["harness"]}
    rows = [(_text(name), _code(value)) for name, value in {**circumstances, **report["environment"]}.items()]
    parts += ["<details><summary>Circumstances</summary>", _table(("", ""), rows), "</details>"]
    return "\n\n".join(parts) + "\n"


def _drift(finding: FindingReport) -> list[str]:
    messages = [case["message"] or "no message was recorded" for case in finding["cases"] if case["verdict"] == "drifted"]
    return [f"**{_text(finding['claim'])}** ({_text(finding['source'])}) {_code(finding['id'])}", _fenced("\n\n".join(messages))]


def _row(finding: FindingReport) -> tuple[str, ...]:
    verdict = f"{_MARKS[finding['verdict']]} **{finding['verdict']}**" if finding["verdict"] == "drifted" else f"{_MARKS[finding['verdict']]} {finding['verdict']}"
    why = f"<br>*Why not:* {_text(finding['reason'])}" if finding["status"] == "contradicted" and finding["reason"] else ""
    return (
        verdict + (f"<br>{note}" if (note := _words.note(finding)) else ""),
        f"{_text(finding['claim'])} ({_text(finding['source'])}){why}",
        _text(f"{finding['expected']} {finding['unit']}".rstrip()),
        _text(_words.measured(finding)),
        _text(finding["control"]) + (f"<br>{_text(values)}" if (values := _words.control(finding)) else ""),
        ", ".join(map(_code, finding["broken_by"])),
    )


def _absent(entry: _words.Missing) -> str:
    context = f" ({_text('; '.join(entry.context))})" if entry.context else ""
    command = f": {_code(entry.command)}" if entry.command else ""
    return f"- {_text(entry.reason)}{context}{command}<br>{_words.plural(entry.cases, 'case')} of {', '.join(map(_code, entry.findings))}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows))


def _text(text: str) -> str:
    """`text` on one line, with nothing left that Markdown or HTML would act on."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    """`text` as a code span, fenced by more backticks than it contains in a row."""
    line = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (1 + _longest_ticks(line))
    space = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{ticks}{space}{line}{space}{ticks}" if line else ""


def _fenced(text: str) -> str:
    ticks = "`" * max(3, 1 + _longest_ticks(text))
    return f"{ticks}text\n{text}\n{ticks}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall(r"`+", text)), default=0)
