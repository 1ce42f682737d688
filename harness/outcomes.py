"""From test reports, of this process or of xdist workers, to the outcomes of a run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Protocol, final

from harness.types import Progress

__all__ = ["Recorder", "TestReport", "environment", "line", "progress"]

LIBRARIES = ("vla-harness", "torch", "transformers", "jax", "numpy", "scikit-learn", "pytest")


class TestReport(Protocol):
    """What is used of pytest's report of one phase of one item."""

    when: str
    passed: bool
    failed: bool
    skipped: bool
    duration: float
    longrepr: Any
    longreprtext: str
    user_properties: list[tuple[str, Any]]


@final
class Recorder:
    """Appends one outcome for every case that was measured, skipped (unmeasured) or broke off (drifted)."""

    def __init__(self, outcomes: list[dict[str, Any]]) -> None:
        self.outcomes = outcomes

    def pytest_runtest_logreport(self, report: TestReport) -> None:
        properties = dict(report.user_properties)
        if "case" not in properties or not (report.when == "call" or (report.when == "setup" and not report.passed)):
            return
        known = properties.get("outcome", {})
        if report.skipped:
            verdict = {"verdict": "unmeasured", "message": _reason(report)}
        elif report.failed and known.get("verdict") in (None, "reproduced", "contradicted"):
            verdict = {"verdict": "drifted", "message": f"the check could not finish\n{_last_lines(report)}"}
        else:
            verdict = {}
        blank = dict.fromkeys(("measured", "low", "high", "control"), None) | {"detail": "", "message": ""}
        self.outcomes.append({**blank, **properties["case"], **known, **verdict, "seconds": round(report.duration, 3)})


def _reason(report: TestReport) -> str:
    return str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _last_lines(report: TestReport) -> str:
    return "\n".join(report.longreprtext.splitlines()[-12:])


def environment(run: Mapping[str, str]) -> dict[str, str]:
    """What a reader needs to know of the machine, the libraries and the options of a run."""
    versions = {name: metadata.version(name) for name in LIBRARIES if any(metadata.distributions(name=name))}
    return {"python": platform.python_version(), "platform": platform.platform(), "cores": str(os.cpu_count()), **versions, **run}


def line(config: Any) -> Callable[[str], None]:
    """Writes a line on the terminal, through pytest's own output capture."""
    reporter, capture = (config.pluginmanager.getplugin(name) for name in ("terminalreporter", "capturemanager"))

    def write(text: str) -> None:
        if reporter is not None:
            with capture.global_and_fixture_disabled():
                reporter.write(f"\n  {text}")

    return write


def progress(config: Any) -> Progress:
    """Shows long extractions on the terminal, through pytest's own output capture: a line every five seconds and one at the end."""
    write, last = line(config), [time.monotonic()]

    def show(done: int, total: int, label: str) -> None:
        if time.monotonic() - last[0] < 5 and done < total:
            return
        last[0] = time.monotonic()
        write(f"extracting {label}: {done} of {total} samples")

    return show
