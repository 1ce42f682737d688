"""Every fault turns exactly the findings that name it red.

All run on small subjects, which take every code path: random weights with dropout, a shipped checkpoint where upstream's tensors are
asked for. Those that a finding about trained weights names run on all findings that only trained weights can answer as well.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from zlib import crc32

import _forked
import pytest

from harness import cards, faults, findings, registry, sources, subjects

ROOT = Path(__file__).resolve().parent.parent
FINDINGS = [finding for document in findings.load(ROOT / "checks/findings") for finding in document.finding]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own; converted weights are shared with other runs, for they do not depend on the fault."""
    folder = tmp_path_factory.mktemp("home")
    weights = Path(os.environ.get("HARNESS_HOME", ROOT / ".harness")).resolve() / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    (folder / "weights").symlink_to(weights)
    return folder


SERVER = _forked.server()
TRAINED = [finding for finding in FINDINGS if all(subjects.marker(case.subject) == "real" for case in findings.cases([finding]))]
SHARE = 6
SHAPES = [finding for finding in FINDINGS if finding.scales == ["abstract"]]


def selection(fault: str) -> list[findings.Case]:
    """What a fault is run on: findings that name it on one subject of every family that it can reach; a sixth of the others, another
    sixth for every fault ($HARNESS_EVERY_FINDING=1: all of them), on one subject of one family; shapes of published sizes, and findings
    that only trained weights answer, if one of their kind names it."""
    reached = sorted(reach(fault), key=lambda family: crc32(f"{fault} {family}".encode()))
    asked = {kind: any(fault in finding.broken_by for finding in members) for kind, members in (("real", TRAINED), ("abstract", SHAPES))}
    chosen = [case for finding in TRAINED if asked["real"] for case in findings.cases([finding])]
    for finding in FINDINGS:
        if fault not in finding.broken_by and crc32(f"{fault} {finding.id}".encode()) % SHARE and not os.environ.get("HARNESS_EVERY_FINDING"):
            continue
        cases = findings.cases([finding])
        of_family: dict[str, list[str]] = {}
        for subject in dict.fromkeys(case.subject for case in cases):
            if subjects.marker(subject) == "mock" and asked.get(subject.partition(":")[2], True):
                of_family.setdefault(cards.model_card(subject.partition(":")[0]).family, []).append(subject)
        subject_of = [min(of_family[family], key=lambda subject: (not subject.endswith(":mock"), subject)) for family in reached if family in of_family]
        kept = subject_of if fault in finding.broken_by else subject_of[:1]
        chosen += [case for case in cases if case.subject in kept]
    return chosen


def reach(fault: str) -> set[str]:
    """The families whose code a fault changes: those whose adapter imports a patched module; all when it is not an adapter's."""
    patched: set[str] = set()
    registry.load("faults", fault)(lambda target, attribute, replacement: patched.add(getattr(target, "__module__", None) or target.__name__))
    families = {name: set(sources.module_files(registry.module("adapters", name))) for name in registry.names("adapters")}
    everywhere = any(not module.startswith("harness.adapters.") or module == "harness.adapters._base" for module in patched)
    return {name for name, files in families.items() if everywhere or files & patched}


@pytest.mark.slow
@pytest.mark.parametrize("fault", registry.names("faults"))
def test_a_fault_turns_exactly_the_findings_that_name_it_red(fault: str, home: Path, tmp_path: Path) -> None:
    cases = " or ".join(case.id for case in selection(fault))
    arguments = ["checks/", "-q", "-k", cases, "--fault", fault, "--report", str(tmp_path), "-p", "no:cacheprovider"]
    status = _forked.run(SERVER, arguments, home, log := tmp_path / "log")
    printed = log.read_text()[-3000:]
    assert status == 1, printed
    report = json.loads((tmp_path / "report.json").read_text())
    red = {finding["id"] for finding in report["findings"] if finding["verdict"] == "drifted"}
    measured = {finding["id"] for finding in report["findings"] if finding["verdict"] != "unmeasured"}
    assert red == {finding.id for finding in FINDINGS if fault in finding.broken_by} & measured, printed
    assert red, "no finding that could be measured here catches this fault"


def test_a_fault_in_one_family_s_code_reaches_that_family_only() -> None:
    assert reach("prompt_causal") == {"spatialvla"}
    assert reach("padding_in_mean") == set(registry.names("adapters"))


def test_every_finding_is_broken_by_a_fault_that_exists() -> None:
    for finding in FINDINGS:
        assert set(finding.broken_by) <= set(registry.names("faults")), finding.id


def test_every_fault_is_named_by_a_finding() -> None:
    assert set(registry.names("faults")) == {fault for finding in FINDINGS for fault in finding.broken_by}


def test_a_fault_is_gone_when_its_injection_ends() -> None:
    from harness import pooling

    before = pooling.token_weights
    with faults.injected("padding_in_mean"):
        assert pooling.token_weights is not before
    assert pooling.token_weights is before


def test_an_unknown_fault_names_the_nearest() -> None:
    with pytest.raises(findings.UnknownNameError, match="nearest is 'pre_norm'"), faults.injected("prenorm"):
        pass


def test_every_fault_says_its_mistake_in_a_sentence() -> None:
    assert all(text.endswith(".") and len(text) > 20 for text in faults.summaries().values())
