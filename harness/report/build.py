"""Documents and the cases measured of them, to the report as JSON-able data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import get_args

from harness import __version__
from harness.errors import UnknownNameError, UsageError
from harness.findings import Document, Finding, expectation
from harness.report._schema import SCHEMA, VERDICTS, CaseReport, FigureReport, FindingReport, Report, SeriesReport, Stored, Verdict

__all__ = ["build"]


def build(
    documents: Sequence[Document],
    cases: Sequence[Mapping[str, object]],
    *,
    environment: Mapping[str, str],
    command: str,
    started: float,
    duration: float,
    fault: str | None,
) -> Report:
    """The report of one run; `started` is in seconds since the epoch, `duration` in seconds.

    Findings keep the order of their documents, cases are sorted by subject and layer, so the order in which parallel
    workers finish leaves no trace. Raises UnknownNameError, UsageError.
    """
    known = {finding.id: finding for document in documents for finding in document.finding}
    by_finding: dict[str, list[CaseReport]] = {}
    for case in cases:
        name = str(case.get("finding"))
        if name not in known:
            raise UnknownNameError("finding", name, known, next="harness findings lists them")
        by_finding.setdefault(name, []).append(_case(case))
    for measured in by_finding.values():
        measured.sort(key=lambda case: (case["subject"], -1 if case["layer"] is None else case["layer"]))
    findings = [
        _finding(document, finding, by_finding[finding.id]) for document in documents for finding in document.finding if finding.id in by_finding
    ]
    counts = Counter(finding["verdict"] for finding in findings)
    return Report(
        schema=SCHEMA,
        created=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        harness=__version__,
        command=command,
        fault=fault,
        seconds=_plain(duration),
        environment={str(key): str(value) for key, value in environment.items()},
        counts={verdict: counts[verdict] for verdict in get_args(Verdict)},
        findings=findings,
        figures=_figures([(known[finding["id"]], finding["cases"]) for finding in findings]),
    )


def _case(case: Mapping[str, object]) -> CaseReport:
    if case.get("verdict") not in VERDICTS:
        raise UsageError("a case has no known verdict", where=case.get("finding"), got=case.get("verdict"), expected=", ".join(VERDICTS))
    return CaseReport(
        subject=str(case["subject"]),
        layer=_plain(case.get("layer")),
        verdict=case["verdict"],
        measured=_plain(case.get("measured")),
        low=_plain(case.get("low")),
        high=_plain(case.get("high")),
        control=_plain(case.get("control")),
        detail=str(case.get("detail") or ""),
        message=str(case.get("message") or ""),
        seconds=_plain(case.get("seconds")),
    )


def _finding(document: Document, finding: Finding, cases: list[CaseReport]) -> FindingReport:
    return FindingReport(
        id=finding.id,
        document=document.document,
        document_title=document.title,
        claim=finding.claim,
        source=finding.source,
        check=finding.check,
        expected=expectation(finding),
        claimed=_plain(finding.claimed),
        status=finding.status,
        reason=finding.reason,
        unit=finding.unit,
        control=finding.control,
        broken_by=list(finding.broken_by),
        verdict=_worst(finding, {case["verdict"] for case in cases}),
        cases=cases,
    )


def _worst(finding: Finding, verdicts: set[Verdict]) -> Verdict:
    if "drifted" in verdicts:
        return "drifted"
    return "unmeasured" if verdicts == {"unmeasured"} else finding.status


def _figures(findings: Iterable[tuple[Finding, list[CaseReport]]]) -> list[FigureReport]:
    figures: dict[str, FigureReport] = {}
    for finding, cases in findings:
        for subject in dict.fromkeys(case["subject"] for case in cases if finding.plot is not None):
            series = _series(finding, [case for case in cases if case["subject"] == subject])
            if series["layers"]:
                figure = figures.setdefault(finding.plot, FigureReport(title=finding.plot, ylabel="", series=[]))
                figure["ylabel"] = figure["ylabel"] or finding.unit
                figure["series"].append(series)
    return list(figures.values())


def _series(finding: Finding, cases: Iterable[CaseReport]) -> SeriesReport:
    points = [case for case in cases if case["layer"] is not None and _is_number(case["measured"])]
    return SeriesReport(
        name=finding.series or finding.id,
        finding=finding.id,
        subject=points[0]["subject"] if points else "",
        ceiling=finding.compare == "at_most",
        layers=[point["layer"] for point in points],
        values=[point["measured"] for point in points],
        low=[point["low"] for point in points],
        high=[point["high"] for point in points],
        control=[point["control"] for point in points],
    )


def _is_number(value: Stored) -> bool:
    return value in ("nan", "inf", "-inf") or (isinstance(value, int | float) and not isinstance(value, bool))


def _plain(value: object) -> Stored:
    """`value` as JSON can hold it: arrays and numpy scalars as Python's own, non-finite numbers as strings."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return str(value)
