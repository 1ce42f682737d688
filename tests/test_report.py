"""The report says what the outcomes say: as data, as a page that is safe to open, as a summary, as whole files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.findings import Document, Finding
from harness.report import files, html, markdown
from harness.report._schema import Report
from harness.report._words import duration, fault_note, headline, measured, missing, note, number
from harness.report.build import build
from harness.report.figures import draw

SCRIPT = "<script>alert(1)</script>"
LACKS = "Skipped: the checkpoint is not here\n  where    /data/pi0\n  next     harness fetch pi0"


def finding(id: str, **changed: object) -> Finding:
    base = {"claim": f"claim of {id}", "source": "https://arxiv.org/abs/2406.09246", "check": "sizes", "expected": 1.0, "control": "shuffled", "broken_by": ["shift"]}
    return Finding.model_validate({"id": id, **base, **changed})


def case(finding: str, **changed: object) -> dict[str, object]:
    base = {"subject": "openvla:mock", "layer": None, "verdict": "reproduced", "measured": 1.0, "low": None, "high": None, "control": None, "detail": "", "message": "", "seconds": 0.5}
    return {"finding": finding, **base, **changed}


UNMEASURED = {"verdict": "unmeasured", "measured": None, "message": LACKS}
DOCUMENTS = (
    Document(
        document="a.toml",
        title="First paper",
        finding=[
            finding("good"),
            finding("wrong", status="contradicted", claimed=2.0, reason="the table counts twice"),
            finding("red", claim=f"{SCRIPT} | pipe"),
            finding("never"),
        ],
    ),
    Document(
        document="b.toml",
        title="Second paper",
        finding=[
            finding("partial"),
            finding("absent", broken_by=["other"]),
            finding("trained", plot="Probe", series="trained", unit="accuracy", compare="at_least", expected=0.5, layers=[0, 1]),
            finding("permuted", plot="Probe", series="permuted", compare="at_most", expected=0.5, layers=[0, 1]),
        ],
    ),
)
CASES = [
    case("trained", layer=1, measured=0.8, low=0.7, high=0.9, control=0.25),
    case("trained", layer=0, measured=0.6, low=0.5, high=0.7, control=0.26),
    case("permuted", layer=0, measured=0.25),
    case("permuted", layer=1, measured=float("nan")),
    case("good"),
    case("wrong", verdict="contradicted"),
    case("red", verdict="drifted", measured=float("inf"), message=f"red: drifted\n  claim {SCRIPT}\n```"),
    case("red", subject="pi0:mock"),
    case("partial", subject="pi0:checkpoint", **UNMEASURED),
    *(case("partial", subject=f"m{index}:mock") for index in range(5)),
    case("absent", **UNMEASURED),
]


def report(cases: list[dict[str, object]] = CASES, **changed: object) -> Report:
    circumstances = {"environment": {"torch": "2.9 <cpu>"}, "command": "pytest checks/", "started": 1.76e9, "duration": 203.4, "fault": None}
    return build(DOCUMENTS, cases, **{**circumstances, **changed})


class Page(HTMLParser):
    """Collects the tags, and the attributes by which a page loads or links something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def by_id(built: Report) -> Mapping[str, dict]:
    return {one["id"]: one for one in built["findings"]}


@pytest.mark.parametrize(
    ("name", "verdict", "said"),
    [
        ("good", "reproduced", ""),
        ("wrong", "contradicted", ""),
        ("red", "drifted", "1 of 2 cases drifted"),
        ("partial", "reproduced", "1 of 6 cases unmeasured"),
        ("absent", "unmeasured", ""),
    ],
)
def test_a_finding_has_the_worst_verdict_of_its_cases(name: str, verdict: str, said: str) -> None:
    one = by_id(report())[name]
    assert (one["verdict"], note(one)) == (verdict, said)


def test_counts_are_over_findings_and_only_those_with_cases_appear() -> None:
    built = report()
    assert built["counts"] == {"reproduced": 4, "contradicted": 1, "drifted": 1, "unmeasured": 1}
    assert [one["id"] for one in built["findings"]] == ["good", "wrong", "red", "partial", "absent", "trained", "permuted"]
    assert by_id(built)["wrong"]["expected"] == "1 (claimed: 2)"
    assert built["created"] == "2025-10-09T08:53:20+00:00"


def test_the_order_in_which_workers_finish_leaves_no_trace() -> None:
    assert report(CASES[::-1]) == report()


def test_numbers_that_are_not_finite_survive_in_valid_json() -> None:
    built = json.loads(json.dumps(report(), allow_nan=False))
    assert by_id(built)["red"]["cases"][0]["measured"] == "inf"
    assert by_id(built)["permuted"]["cases"][1]["measured"] == "nan"
    assert measured(by_id(built)["permuted"]) == "L0 0.25; L1 nan"


def test_numpy_values_become_plain_json() -> None:
    built = report([case("good", measured=np.array([1.0, np.nan]), low=np.float32(0.5), high=np.int64(2))])
    assert json.dumps(built["findings"][0]["cases"][0], allow_nan=False).startswith('{"subject": "openvla:mock", "layer": null, "verdict": "reproduced", "measured": [1.0, "nan"], "low": 0.5, "high": 2,')


def test_a_case_of_an_unknown_finding_or_verdict_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="nearest is 'good'"):
        report([case("goood")])
    with pytest.raises(UsageError, match="no known verdict"):
        report([case("good", verdict="passed")])


def test_a_figure_has_one_series_per_finding_and_subject_sorted_by_layer() -> None:
    (figure,) = report()["figures"]
    assert (figure["title"], figure["ylabel"]) == ("Probe", "accuracy")
    trained, permuted = figure["series"]
    assert (trained["name"], trained["layers"], trained["values"], trained["low"], trained["control"]) == ("trained", [0, 1], [0.6, 0.8], [0.5, 0.7], [0.26, 0.25])
    assert (permuted["name"], permuted["ceiling"], permuted["values"]) == ("permuted", True, [0.25, "nan"])
    two = report([*CASES, case("trained", subject="pi0:mock", layer=0, measured=0.7)])["figures"][0]
    assert [(series["name"], series["subject"]) for series in two["series"]] == [("trained", "openvla:mock"), ("trained", "pi0:mock"), ("permuted", "openvla:mock")]
    assert [panel.model for panel in draw(two, prefix="f")] == ["openvla", "pi0"]


def test_a_drawn_figure_names_every_line_and_keeps_its_text_as_text() -> None:
    (panel,) = draw(report()["figures"][0], prefix="f")
    assert [name for name in ("trained", "permuted", "control of trained", "accuracy") if f">{name}</text>" not in panel.svg] == []
    assert "var(--series-0" in panel.svg and "stroke-dasharray" in panel.svg and "<metadata" not in panel.svg


@pytest.mark.parametrize("values", [[0.0, 0.0], ["nan", "inf"], [1e-7, 3e-7], [-5.0, 4e9]])
def test_any_values_can_be_drawn(values: list[float | str]) -> None:
    figure = report()["figures"][0]
    assert draw({**figure, "series": [{**figure["series"][0], "values": values}]}, prefix="f")[0].svg.endswith("</svg>")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0, "0"), (-0.0, "0"), (4096, "4096"), (123456789, "123456789"), (1.11e-07, "1.1e-07"), (1e-05, "1e-05"), (0.81324, "0.8132"), (1.0, "1")]
    + [(12345.6, "12346"), (2.5e9, "2.5e+09"), (True, "True"), ("nan", "nan"), (None, ""), ([0, 0.5], "[0, 0.5]")],
)
def test_numbers_have_four_digits(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.42 s"), (0, "0 s"), (41.2, "41 s"), (203.4, "3 min 23 s"), (7500, "2 h 05 min"), (None, ""), ("nan", "nan")])
def test_durations_are_read_at_a_glance(seconds: float | str | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("cases", "text"),
    [
        ([{"measured": 4096}], "4096"),
        ([{"measured": 0.91, "low": 0.88, "high": 0.93}], "0.91 [0.88, 0.93]"),
        ([{"measured": 0.91, "low": 0.88}], "0.91 [0.88, …]"),
        ([{"measured": 7}, {"measured": 7}], "7 in all 2 cases"),
        ([{"measured": 1, "layer": 3}, {"measured": 2, "layer": 9}], "L3 1; L9 2"),
        ([{"measured": n / 10, "low": 0, "high": n, "layer": n} for n in range(1, 7)], "0.1 to 0.6 [0, 6] over 6 layers"),
        ([{"measured": 0.5}, {"measured": float("nan")}, {"measured": 2}], "0.5 to 2 and nan (1) over 3 cases"),
        ([{"measured": "eager"}, {"measured": "sdpa"}, {"measured": "sdpa"}], "sdpa (2); eager (1)"),
        ([UNMEASURED], "—"),
    ],
)
def test_many_cases_fit_one_line(cases: list[dict[str, object]], text: str) -> None:
    assert measured(report([case("good", **one) for one in cases])["findings"][0]) == text


@pytest.mark.parametrize(
    ("cases", "sentence"),
    [
        (CASES, "1 finding DRIFTED; 5 of 6 measured hold; 1 claim of the documents is contradicted, as recorded; 1 could not be measured here"),
        ([case("good")], "1 of 1 measured findings hold"),
        ([case("absent", **UNMEASURED)], "0 of 1 finding could be measured here"),
        ([], "No finding was asked for"),
    ],
)
def test_the_headline_states_the_verdict(cases: list[dict[str, object]], sentence: str) -> None:
    built = report(cases)
    assert headline(built) == sentence
    assert f"{sentence}.</h1>" in html.render(built)


def test_an_injected_fault_is_loud_and_names_the_findings_that_missed_it() -> None:
    built = report(fault="shift")
    assert fault_note(built) == "1 of 6 measured findings that name it drifted; missed by good, wrong, partial, trained, permuted."
    assert 'class="fault" role="alert"' in html.render(built)
    assert "FAULT INJECTED: `shift`" in markdown.render(built)
    assert 'role="alert"' not in html.render(report())


def test_unmeasured_cases_are_grouped_by_reason_with_the_command() -> None:
    (entry,) = missing(report())
    assert entry == ("the checkpoint is not here", ("where /data/pi0",), "harness fetch pi0", 2, ("partial", "absent"))
    assert '<code class="command">harness fetch pi0</code>' in html.render(report())


def test_markup_in_a_report_is_inert() -> None:
    hostile = {"environment": {SCRIPT: SCRIPT}, "command": SCRIPT, "fault": SCRIPT}
    cases = [{**one, "subject": SCRIPT, "detail": SCRIPT} for one in CASES]
    page = html.render(report(cases, **hostile))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "script" not in Page(page).tags
    prose = re.sub(r"(?ms)^(`{3,}).*?^\1$|(`+)[^\n]*?\2", "", markdown.render(report(cases, **hostile)))
    assert "<script" not in prose


def test_the_page_loads_nothing_and_its_links_stay_inside() -> None:
    page = Page(html.render(report()))
    assert set(page.tags).isdisjoint({"script", "link", "img", "iframe"})
    assert [reference for reference in page.references if not reference.startswith("#") or reference[1:] not in page.ids] == []
    assert len(page.ids) == len(set(page.ids))
    assert "@import" not in html.render(report()) and not re.search(r"url\((?!#)", html.render(report()))


def test_drifted_findings_come_first() -> None:
    for text in (html.render(report()), markdown.render(report())):
        assert text.index("Drifted") < text.index("claim of good")
        assert text.count("pipe") >= 2


def test_every_row_of_the_summary_has_six_cells() -> None:
    rows = [line for line in markdown.render(report()).splitlines() if line.startswith("| ") and "claim of" in line]
    assert len(rows) == 6 and {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {8}


def test_a_report_written_twice_is_the_same_bytes_and_reads_back(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        files.write(report(), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["index.html", "report.json", "report.md"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert files.read(tmp_path / "one" / "report.json") == report()


def test_a_write_that_fails_leaves_the_old_files_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        files.write(report([case("good")]), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write({**report(), "seconds": float("nan")}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"schema": 1', "a report is not JSON"),
        ('{"schema": NaN}', "NaN is not JSON"),
        ("[]", "at the file itself"),
        ("{}", r"at schema .*\n.*\n.*\n  expected Field required"),
        (json.dumps({**report(), "schema": 2}), r"at schema\n.*\n  got      2\n  expected Input should be 1"),
        (json.dumps(report()).replace('"drifted", "measured"', '"passed", "measured"'), r"at findings\.2\.cases\.0\.verdict\n"),
        (json.dumps({**report(), "extra": 1}), r"at extra\n"),
    ],
)
def test_a_file_that_is_no_report_is_refused_with_the_field(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DamagedError, match=match):
        files.read(tmp_path / "report.json")


def test_an_absent_report_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="next     pytest"):
        files.read(tmp_path / "report.json")
