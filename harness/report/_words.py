"""A report's numbers and verdicts in words, the same in HTML and Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from harness.report._schema import CaseReport, FindingReport, Number, Report, Stored

__all__ = ["Missing", "as_float", "control", "duration", "fault_note", "headline", "interval", "measured", "missing", "note", "number", "plural"]

_LISTED = 4  # more layers than this are told as a range
_LONG = 60  # characters of a value in a table row; the case list has all of it


class Missing(NamedTuple):
    """One reason why cases could not be measured, and the command that removes it (empty if the reason names none)."""

    reason: str
    context: tuple[str, ...]
    command: str
    cases: int
    findings: tuple[str, ...]


def number(value: Stored) -> str:
    """`value` to four significant digits: 4096, 0.8132, 0, 1.1e-07; an empty string for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(number, value))}]"
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size != 0 and not 1e-4 <= size < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{exponent}"
    return f"{value:.0f}" if size >= 1e3 else f"{value or 0.0:.4g}"


def as_float(value: Stored) -> float | None:
    """The number that `value` stands for, None where it is none."""
    if isinstance(value, bool | list) or value is None:
        return None
    if isinstance(value, str):
        return float(value) if value in ("nan", "inf", "-inf") else None
    return float(value)


def interval(low: Number, high: Number) -> str:
    """`[0.78, 0.84]`, an ellipsis for an open side, nothing without bounds."""
    return "" if low is None and high is None else f"[{number(low) or '…'}, {number(high) or '…'}]"


def duration(seconds: Number) -> str:
    """`0.42 s`, `41 s`, `3 min 20 s`, `2 h 05 min`."""
    value = as_float(seconds)
    if value is None or not math.isfinite(value):
        return number(seconds)
    whole = round(value)
    if whole < 60:
        return f"{value:.2g} s" if value < 10 else f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(count: int, noun: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def measured(finding: FindingReport) -> str:
    """A finding's cases on one line: the value, a short list by layer, or the range with the envelope of its intervals."""
    cases = [case for case in finding["cases"] if case["measured"] is not None]
    texts = [_short(number(case["measured"])) for case in cases]
    if not cases:
        return "—"
    unit = f" {finding['unit']}" if finding["unit"] else ""
    bounds = f" {text}" if (text := _envelope(cases)) else ""
    if len(cases) == 1:
        return f"{texts[0]}{bounds}{unit}"
    if len(set(texts)) == 1:
        return f"{texts[0]}{bounds}{unit} in all {len(cases)} cases"
    one_subject = len({case["subject"] for case in cases}) == 1 and all(case["layer"] is not None for case in cases)
    if one_subject and len(cases) <= _LISTED:
        listed = "; ".join(f"L{case['layer']} {text}{_spaced(interval(case['low'], case['high']))}" for case, text in zip(cases, texts, strict=True))
        return f"{listed}{unit}"
    values = [as_float(case["measured"]) for case in cases]
    if None in values:
        return _short("; ".join(f"{text} ({count})" for text, count in Counter(texts).most_common()))
    return f"{_range(values)}{bounds}{unit} over {plural(len(cases), 'layer' if one_subject else 'case')}"


def control(finding: FindingReport) -> str:
    """Range of the measured controls, empty if no case measured one."""
    values = [value for case in finding["cases"] if (value := as_float(case["control"])) is not None]
    return _range(values) if values else ""


def note(finding: FindingReport) -> str:
    """`2 of 6 cases unmeasured` for a finding measured in part, `1 of 6 cases drifted` for one that drifted in part."""
    verdicts = Counter(case["verdict"] for case in finding["cases"])
    partly = [word for word in ("drifted", "unmeasured") if 0 < verdicts[word] < len(finding["cases"])]
    return ", ".join(f"{verdicts[word]} of {len(finding['cases'])} cases {word}" for word in partly)


def headline(report: Report) -> str:
    """The verdict on the run, as one sentence."""
    counts = report["counts"]
    drifted, held = counts["drifted"], counts["reproduced"] + counts["contradicted"]
    if not report["findings"]:
        return "No finding was asked for"
    if not drifted + held:
        return f"0 of {plural(counts['unmeasured'], 'finding')} could be measured here"
    parts = [f"{held} of {held + drifted} measured findings hold"]
    if drifted:
        parts = [f"{plural(drifted, 'finding')} DRIFTED", f"{held} of {held + drifted} measured hold"]
    if count := counts["contradicted"]:
        parts.append(f"{count} {'claim of the documents is' if count == 1 else 'claims of the documents are'} contradicted, as recorded")
    if count := counts["unmeasured"]:
        parts.append(f"{count} could not be measured here")
    return "; ".join(parts)


def fault_note(report: Report) -> str:
    """Whether the findings that name the injected fault caught it; empty without a fault."""
    if report["fault"] is None:
        return ""
    named = [finding for finding in report["findings"] if report["fault"] in finding["broken_by"] and finding["verdict"] != "unmeasured"]
    missed = [finding["id"] for finding in named if finding["verdict"] != "drifted"]
    if not named:
        return "No measured finding names this fault."
    caught = f"{len(named) - len(missed)} of {plural(len(named), 'measured finding')} that name it drifted"
    return f"{caught}; missed by {', '.join(missed)}." if missed else f"{caught}."


def missing(report: Report) -> list[Missing]:
    """What the unmeasured cases lack, one entry for each distinct reason, in the order of the findings."""
    groups: dict[str, list[str]] = {}
    for finding in report["findings"]:
        for case in finding["cases"]:
            if case["verdict"] == "unmeasured":
                groups.setdefault(case["message"].removeprefix("Skipped: ").strip(), []).append(finding["id"])
    return [_missing(message, findings) for message, findings in groups.items()]


def _missing(message: str, findings: Sequence[str]) -> Missing:
    """Reads the rows of a HarnessError's message; other text is a reason without a command."""
    reason, *rows = [line.strip() for line in message.splitlines() if line.strip()] or ["no reason was given"]
    commands = [row.removeprefix("next ").strip() for row in rows if row.startswith("next ")]
    context = tuple(" ".join(row.split()) for row in rows if not row.startswith("next "))
    return Missing(reason, context, "; ".join(commands), len(findings), tuple(dict.fromkeys(findings)))


def _envelope(cases: Iterable[CaseReport]) -> str:
    cases = list(cases)
    lows, highs = [as_float(case["low"]) for case in cases], [as_float(case["high"]) for case in cases]
    return interval(None if None in lows else _extreme(min, lows), None if None in highs else _extreme(max, highs))


def _extreme(of: Callable[[list[float]], float], values: Iterable[float]) -> float:  # NaN has no order: it wins, rather than hide
    values = list(values)
    return math.nan if any(map(math.isnan, values)) else of(values)


def _range(values: Sequence[float]) -> str:
    ordered = sorted(value for value in values if not math.isnan(value))
    ends = list(dict.fromkeys(number(_whole(value)) for value in ordered[:1] + ordered[-1:]))
    lost = len(values) - len(ordered)
    return " and ".join([*([" to ".join(ends)] if ends else []), *([f"nan ({lost})"] if lost else [])])


def _whole(value: float) -> float | int:
    return int(value) if math.isfinite(value) and value.is_integer() else value


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def _spaced(text: str) -> str:
    return f" {text}" if text else ""
