"""The shape of report.json, as types that pydantic can check a file against.

JSON has no NaN or infinity, so a non-finite number is stored as the string `nan`, `inf` or `-inf`: the value survives,
every JSON reader accepts the file, and null keeps its one meaning, not measured.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from typing_extensions import TypedDict

from harness.types import Value

__all__ = ["SCHEMA", "VERDICTS", "CaseReport", "FigureReport", "FindingReport", "Number", "Report", "SeriesReport", "Stored", "Verdict"]

SCHEMA = 1
Verdict = Literal["reproduced", "contradicted", "drifted", "unmeasured"]
VERDICTS: tuple[Verdict, ...] = ("drifted", "contradicted", "reproduced", "unmeasured")  # the order a reader needs them in
Number = int | float | Literal["nan", "inf", "-inf"] | None
Stored = Value | list[int | float | Literal["nan", "inf", "-inf"]] | None  # a finding's Value as JSON can hold it

_STRICT = ConfigDict(extra="forbid", strict=True)


class CaseReport(TypedDict):
    """One measurement of a finding: on one subject, at one layer where the finding names layers."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    subject: str
    layer: int | None
    verdict: Verdict
    measured: Stored
    low: Number
    high: Number
    control: Number
    detail: str
    message: str
    seconds: Number


class FindingReport(TypedDict):
    """One claim with its verdict, the worst of its cases."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    id: str
    document: str
    document_title: str
    claim: str
    source: str
    check: str
    expected: str
    claimed: Stored
    status: Literal["reproduced", "contradicted"]
    reason: str | None
    unit: str
    control: str
    broken_by: list[str]
    verdict: Verdict
    cases: list[CaseReport]


class SeriesReport(TypedDict):
    """One line of a figure: a finding on one subject, by layer. `ceiling` marks a finding that must stay low, a control."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    name: str
    finding: str
    subject: str
    ceiling: bool
    layers: list[int]
    values: list[Number]
    low: list[Number]
    high: list[Number]
    control: list[Number]


class FigureReport(TypedDict):
    """The series of all findings that share one `plot`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    title: str
    ylabel: str
    series: list[SeriesReport]


class Report(TypedDict):
    """One run."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    schema: Literal[1]
    created: str
    harness: str
    command: str
    fault: str | None
    seconds: Number
    environment: dict[str, str]
    counts: dict[Verdict, int]
    findings: list[FindingReport]
    figures: list[FigureReport]
