"""A report as one self-contained page: no script, no external file, light and dark, screen and paper."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from harness.report import _words
from harness.report._schema import VERDICTS, FindingReport, Report, SeriesReport
from harness.report.figures import Panel, draw

__all__ = ["render", "style"]


class _Group(NamedTuple):
    """The findings of one document, drifted ones first, and how many have which verdict."""

    document: str
    title: str
    findings: list[FindingReport]
    counts: dict[str, int]


class _Figure(NamedTuple):
    title: str
    panels: list[Panel]
    series: list[tuple[SeriesReport, FindingReport]]


def render(report: Report) -> str:
    """The page; the same report gives the same bytes. Every text of the report is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("harness.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("control", "duration", "interval", "measured", "note", "number", "plural"):
        environment.filters[name] = getattr(_words, name)
    return environment.get_template("report.html.j2").render(
        report=report,
        verdicts=VERDICTS,
        headline=_words.headline(report),
        fault_note=_words.fault_note(report),
        missing=_words.missing(report),
        drifted=[finding for finding in report["findings"] if finding["verdict"] == "drifted"],
        groups=_groups(report["findings"]),
        figures=_figures(report),
    )


def style() -> str:
    """The CSS that all pages share."""
    return files("harness.report").joinpath("report.css.j2").read_text(encoding="utf-8")


def _groups(findings: Sequence[FindingReport]) -> list[_Group]:
    documents = {finding["document"]: finding["document_title"] for finding in findings}
    groups = []
    for document, title in documents.items():
        own = [finding for finding in findings if finding["document"] == document]
        counts = {verdict: sum(finding["verdict"] == verdict for finding in own) for verdict in VERDICTS}
        groups.append(_Group(document, title, sorted(own, key=lambda finding: finding["verdict"] != "drifted"), counts))
    return groups


def _figures(report: Report) -> list[_Figure]:
    findings = {finding["id"]: finding for finding in report["findings"]}
    figures = []
    for index, figure in enumerate(report["figures"]):
        named = {series["finding"]: series for series in figure["series"]}
        figures.append(_Figure(figure["title"], draw(figure, prefix=f"figure-{index}"), [(series, findings[name]) for name, series in named.items()]))
    return figures
