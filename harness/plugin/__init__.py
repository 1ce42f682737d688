"""The pytest plug-in: options, markers, one test item for every case of a finding, and the outcomes of a run.

A test module names its question with `pytestmark = pytest.mark.question("post_norm")`; each of its tests that takes `case`
runs once for every case of the findings that ask it. It ends with `judge(measurement)`.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness import cards, faults, findings, registry, subjects
from harness.errors import HarnessError, MissingError, UnknownNameError
from harness.findings import Case, Outcome
from harness.outcomes import Recorder, environment
from harness.plugin._options import checkpoints, documents, is_controller, is_given, report_folder, require_samples, runs_checks, runtime
from harness.types import Measurement

__all__ = ["checkpoints", "judge", "report_folder", "runtime"]

MARKERS = {
    "mock": "tiny weights on the true code path; runs anywhere in seconds",
    "real": "trained weights that fit a CPU; needs the packages `harness doctor` names",
    "gpu": "published sizes on an accelerator: random weights, or --checkpoint MODEL=DIRECTORY",
    "sim": "needs a simulator",
    "slow": "takes minutes",
    "compare": "asked of the two sides of --compare only",
    "question(name)": "the question that a module of checks answers; findings name it",
}
OUTCOMES, STACK = pytest.StashKey[list[dict[str, Any]]](), pytest.StashKey[ExitStack]()
RUN_OPTIONS = ("device", "dtype", "attention", "seed")
STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness", "vla-harness")
    group.addoption("--model", metavar="NAME", help="run the findings of one model only")
    group.addoption("--checkpoint", metavar="MODEL=DIRECTORY", action="append", nargs="+", default=[], help="a checkpoint to run a model's checkpoint scale on; repeatable")
    group.addoption("--device", help="cpu, cuda or cuda:N (default: cpu; cuda for items marked gpu)")
    group.addoption("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="dtype of the weights (default: float32)")
    group.addoption("--attention", default="eager", choices=("eager", "sdpa"), help="attention kernel (default: eager)")
    group.addoption("--store", metavar="DIR", type=Path, help="where features are kept (default: .harness/store)")
    group.addoption("--report", metavar="DIR", help="where the report is written (default: reports/latest; none with --fault); 'none' writes none")
    group.addoption("--fault", metavar="NAME", help="inject a mistake: the findings that name it must turn red")
    group.addoption("--remeasure", action="store_true", help="measure everything again, whatever is kept from earlier runs")
    group.addoption("--compare", metavar=("BEFORE", "AFTER"), nargs=2, help="ask only whether one model is another still: MODEL:SCALE[=DIRECTORY][@DTYPE], or store:KEY, twice")
    group.addoption("--dataset", metavar="NAME", help="the samples of --compare: a card or a path")
    group.addoption("--seed", type=int, default=0, help="added to the seed of random weights, splits and resampling (default: 0)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    outcomes: list[dict[str, Any]] = []
    if is_controller(config):
        config.pluginmanager.register(Recorder(outcomes), "harness-recorder")
    else:  # workers that each take every core only wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(config.workerinput["workercount"]))))
    config.stash[OUTCOMES], config.stash[STACK], config.stash[STARTED] = outcomes, ExitStack(), time.time()
    fault = config.getoption("--fault")
    try:
        checkpoints(config)
        if runs_checks(config):
            documents(config)
        if (model := config.getoption("--model")) is not None:
            cards.model_card(model)
        require_samples(config)
        if fault is not None:
            if config.getoption("--compare"):
                raise pytest.UsageError("--fault with --compare would keep the mistake's features as the model's own")
            if fault not in registry.names("faults"):
                raise UnknownNameError("fault", fault, registry.names("faults"), next="harness faults lists them")
            if config.getoption("--snapshot-update", False):
                raise pytest.UsageError("--fault with --snapshot-update would accept the mistake as the truth")
            config.stash[STACK].enter_context(faults.injected(fault))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    folder = report_folder(config)
    if folder is not None and is_controller(config) and not config.option.collectonly and config.option.xmlpath is None and runs_checks(config):
        config.option.xmlpath = str(folder / "junit.xml")


def pytest_unconfigure(config: pytest.Config) -> None:
    if (stack := config.stash.get(STACK, None)) is not None:
        stack.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    question = next(metafunc.definition.iter_markers("question"), None)
    if question is None or "case" not in metafunc.fixturenames:
        return
    try:
        asked = [finding for document in documents(metafunc.config) for finding in document.finding if finding.check == question.args[0]]
        chosen = findings.cases(asked, model=metafunc.config.getoption("--model"))
        params = [pytest.param(case, id=case.id, marks=getattr(pytest.mark, subjects.marker(case.subject))) for case in chosen]
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize("case", params)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unasked = [item for item in items if item.get_closest_marker("question") and hasattr(item, "callspec") and not _is_asked(item)]
    if unasked:  # questions that no finding asks of the chosen model, and random weights beside a given checkpoint
        config.hook.pytest_deselected(items=unasked)
        items[:] = [item for item in items if item not in unasked]
    comparing = config.getoption("--compare") is not None
    if others := [item for item in items if (item.get_closest_marker("compare") is not None) != comparing and _is_check(item)]:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    for item in items:
        if (case := _case(item)) is not None:
            item.user_properties.append(("case", {"finding": case.finding.id, "subject": case.subject, "layer": case.layer}))
    # a model that fills an accelerator is loaded once: all of its items run together, after the others
    items.sort(key=lambda item: _case(item).subject if _case(item) is not None and item.get_closest_marker("gpu") else "")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if (case := _case(item)) is None:
        return
    lacking = []
    if not is_given(item.config, case.subject) and (command := subjects.missing(case.subject)):
        lacking.append(str(MissingError(f"{case.subject} has no weights here", next=command)))
    try:
        runtime(item.config, case.subject)
    except MissingError as error:
        lacking.append(str(error))
    if (dtype := item.config.getoption("--dtype")) not in case.finding.dtypes:
        lacking.append(f"asked of weights in {', '.join(case.finding.dtypes)} only, not of {dtype}")
    if lacking:
        pytest.skip("\n".join(lacking))


@pytest.fixture
def judge(request: pytest.FixtureRequest, case: Case) -> Callable[[Measurement], Outcome]:
    """The verdict on a measurement of this item's case, recorded for the report."""

    def judged(measurement: Measurement) -> Outcome:
        outcome = findings.judge(case, measurement, dtype=request.config.getoption("--dtype"))
        request.node.user_properties.append(("outcome", outcome.as_dict()))
        return outcome

    return judged


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcomes = config.stash[OUTCOMES]
    if not outcomes or not is_controller(config):
        return
    red = sorted({outcome["finding"] for outcome in outcomes if outcome["verdict"] == "drifted"})
    measured = {outcome["finding"] for outcome in outcomes if outcome["verdict"] != "unmeasured"}
    terminalreporter.section("findings")
    unmeasured = len({outcome["finding"] for outcome in outcomes} - measured)
    terminalreporter.line(
        f"{len(measured) - len(red)} of {len(measured)} measured findings hold"
        + (f"; {unmeasured} could not be measured here" if unmeasured else "")
        + (f"; red: {', '.join(red)}" if red else "")
    )
    if (fault := config.getoption("--fault")) is not None:
        _tell_fault(terminalreporter, config, fault, set(red), measured)
    if (folder := report_folder(config)) is not None:
        from harness.report import build, files

        built = build.build(
            documents(config),
            outcomes,
            environment=environment({name: str(config.getoption(f"--{name}") or "default") for name in RUN_OPTIONS}),
            command=shlex.join(["pytest", *map(str, config.invocation_params.args)]),
            started=config.stash[STARTED],
            duration=time.time() - config.stash[STARTED],
            fault=fault,
        )
        files.write(built, folder)
        terminalreporter.line(f"report: {folder / 'index.html'}")


def _case(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec is not None else None
    return case if isinstance(case, Case) else None


def _is_asked(item: pytest.Item) -> bool:
    if (case := _case(item)) is None:
        return False
    model, _, scale = case.subject.partition(":")
    return scale != "full" or model not in checkpoints(item.config)


def _is_check(item: pytest.Item) -> bool:
    """Whether an item asks about models: a comparison leaves the harness's own tests alone."""
    return item.get_closest_marker("question") is not None or item.get_closest_marker("compare") is not None


def _tell_fault(terminalreporter: Any, config: pytest.Config, fault: str, red: set[str], measured: set[str]) -> None:
    named = {finding.id for document in documents(config) for finding in document.finding if fault in finding.broken_by}
    rows = (("caught", red & named), ("MISSED", (named & measured) - red), ("UNEXPECTED", red - named))
    terminalreporter.line(f"fault {fault}: " + "; ".join(f"{word} {len(found)}" + (f" ({', '.join(sorted(found))})" if found else "") for word, found in rows))


def pytest_report_header(config: pytest.Config) -> list[str]:
    fault = config.getoption("--fault")
    return [f"harness: FAULT INJECTED: {fault} ({faults.summaries()[fault]})"] if fault else []
