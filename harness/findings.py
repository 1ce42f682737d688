"""Findings: documented claims as data, and the verdict on today's measurement of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.cards import ModelCard, Trait, model_cards, parse_toml
from harness.errors import DamagedError, MissingError, UnknownNameError
from harness.types import Measurement, Scale, Value

__all__ = ["Case", "Document", "Finding", "Outcome", "cases", "judge", "load"]


class Finding(BaseModel):
    """One claim. `expected` is what the harness holds to be true; `claimed` is the source's figure where it differs.

    A finding with status `contradicted` holds while the contradiction does. `broken_by` names every fault that turns it
    red, `control` what must stay at chance or zero for the verdict to mean anything.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    claim: str
    source: str
    check: str = Field(description="the question it answers: test_<check>.py")
    subjects: list[str] = Field(default=["*"], description="patterns of model:scale; a leading ! removes")
    scales: list[Scale] = ["mock", "real", "full", "checkpoint"]
    needs: list[Trait] = Field(default=[], description="traits that a model card must declare")
    layers: list[int] = Field(default=[], description="one case for each")
    params: dict[str, Any] = {}
    expected: Value
    compare: Literal["equal", "at_most", "at_least"] = "equal"
    atol: float = Field(default=0.0, ge=0)
    rtol: float = Field(default=0.0, ge=0)
    half: float | None = Field(default=None, description="what is expected instead when weights are float16 or bfloat16")
    dtypes: list[str] = Field(default=["float32", "bfloat16", "float16"], description="dtypes of weights that it can be asked of")
    unit: str = ""
    status: Literal["reproduced", "contradicted"] = "reproduced"
    claimed: Value | None = None
    reason: str | None = None
    plot: str | None = Field(default=None, description="title of the figure by layer that shows this finding as a series")
    series: str | None = Field(default=None, description="name of that series")
    control: str
    broken_by: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> Finding:
        if self.status == "contradicted" and (self.reason is None or self.claimed is None):
            raise ValueError("a contradicted finding needs `claimed` and `reason`")
        if self.compare != "equal" and not _is_number(self.expected):
            raise ValueError(f"`compare = {self.compare!r}` needs a number as `expected`")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError("`layers` repeat")
        return self


class Document(BaseModel):
    """One source document with the findings taken from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    document: str
    title: str
    finding: list[Finding]


@dataclass(frozen=True)
class Case:
    """A finding asked of one subject, at one layer where the finding names layers."""

    finding: Finding
    subject: str
    layer: int | None = None

    @property
    def id(self) -> str:
        """The name of its test item; no colon, which snapshot file names cannot hold."""
        return "-".join([self.finding.id, *self.subject.split(":"), *([] if self.layer is None else [f"L{self.layer:02d}"])])


@dataclass(frozen=True)
class Outcome:
    """A case with its verdict: `reproduced` or `contradicted` as documented, `drifted` when it no longer holds."""

    finding: str
    subject: str
    layer: int | None
    verdict: Literal["reproduced", "contradicted", "drifted"]
    measured: Value
    low: float | None
    high: float | None
    control: float | None
    detail: str
    message: str

    @property
    def holds(self) -> bool:
        return self.verdict != "drifted"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load(folder: Path | None = None) -> tuple[Document, ...]:
    """Every document in `folder` (default `$HARNESS_FINDINGS` or `checks/findings`). Raises DamagedError, MissingError."""
    folder = folder or Path(os.environ.get("HARNESS_FINDINGS", "checks/findings"))
    if not folder.is_dir():
        raise MissingError("there is no folder of findings here", where=folder.absolute(), next="run from the repository's root, or set HARNESS_FINDINGS")
    documents = tuple(parse_toml(path, Document) for path in sorted(folder.glob("*.toml")))
    seen: set[str] = set()
    for finding in (finding for document in documents for finding in document.finding):
        if finding.id in seen:
            raise DamagedError("two findings have the same id", where=folder, got=finding.id, expected="unique ids")
        seen.add(finding.id)
    return documents


def cases(findings: Iterable[Finding], *, model: str | None = None) -> list[Case]:
    """Each finding on every subject it applies to, in a fixed order; `model` keeps one model.

    Raises UnknownNameError for a model without a card, DamagedError for a finding that no subject can answer.
    """
    cards = model_cards()
    if model is not None and model not in cards:
        raise UnknownNameError("model", model, cards, next="harness doctor lists the models")
    found = []
    for finding in findings:
        if not (subjects := _subjects(finding, list(cards.values()))):
            raise DamagedError("a finding applies to no subject", where=f"{finding.id}, fields subjects, scales, needs", got=finding.subjects, expected="a pattern of model:scale")
        found += [Case(finding, subject, layer) for subject in subjects if model in (None, subject.partition(":")[0]) for layer in (finding.layers or [None])]
    return found


def judge(case: Case, measurement: Measurement, *, dtype: str = "float32") -> Outcome:
    """The verdict on a measurement; its message is what a person reads when it does not hold.

    `dtype` is that of the model's weights: in half precision a finding's `half` stands for its `expected`.
    """
    finding = case.finding
    if dtype != "float32" and finding.half is not None:
        finding = finding.model_copy(update={"expected": finding.half})
    holds = _holds(finding, measurement)
    verdict = finding.status if holds else "drifted"
    bounds = "" if measurement.low is None else f" [{_text(measurement.low)}, {_text(measurement.high)}]"
    rows = (
        ("claim", f"{finding.claim} ({finding.source})"),
        ("subject", case.subject + ("" if case.layer is None else f", layer {case.layer}")),
        ("measured", f"{_text(measurement.value)}{bounds} {finding.unit}".rstrip()),
        ("expected", expectation(finding)),
        ("detail", measurement.detail),
        ("control", finding.control),
        ("broken by", ", ".join(finding.broken_by)),
    )
    message = "\n".join([f"{finding.id}: {verdict}", *(f"  {label:<10} {text}" for label, text in rows if text)])
    return Outcome(
        finding.id, case.subject, case.layer, verdict, measurement.value, measurement.low, measurement.high, measurement.control, measurement.detail, message
    )


def expectation(finding: Finding) -> str:
    """The expected value in words, with its tolerance: `at least 0.5`, `0 ± 1e-05`."""
    word = {"equal": "", "at_most": "at most ", "at_least": "at least "}[finding.compare]
    tolerance = "".join(f" ± {number:g}{kind}" for number, kind in ((finding.atol, ""), (finding.rtol, " relative")) if number)
    claimed = f" (claimed: {_text(finding.claimed)})" if finding.status == "contradicted" else ""
    return f"{word}{_text(finding.expected)}{tolerance}{claimed}"


def _holds(finding: Finding, measurement: Measurement) -> bool:
    expected, bounds = finding.expected, {"at_least": measurement.low, "at_most": measurement.high}
    bound = bounds.get(finding.compare)
    got = measurement.value if bound is None else bound
    if isinstance(expected, list) or isinstance(got, list):
        both = isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got)
        return both and all(_within(finding, new, old) for new, old in zip(got, expected, strict=True))
    return _within(finding, got, expected)


def _within(finding: Finding, got: Value, expected: Value) -> bool:
    """Whether one value holds, tolerance included; NaN never does, and a truth value equals only a truth value."""
    if not (_is_number(got) and _is_number(expected)):
        return type(got) is type(expected) and got == expected
    slack = finding.atol + finding.rtol * abs(expected)
    return {"equal": abs(got - expected) <= slack, "at_least": got >= expected - slack, "at_most": got <= expected + slack}[finding.compare]


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _subjects(finding: Finding, cards: Sequence[ModelCard]) -> list[str]:
    chosen = []
    for card in cards:
        for scale in card.scales:
            name = f"{card.name}:{scale}"
            matches = [pattern for pattern in finding.subjects if fnmatchcase(name, pattern.removeprefix("!"))]
            if matches and not matches[-1].startswith("!") and scale in finding.scales and set(finding.needs) <= set(card.traits):
                chosen.append(name)
    return chosen


def _text(value: Value | None) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
