"""The plug-in as a user meets it: options, selection, outcomes, the report and the words of a refusal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOY = ("checks/test_post_norm.py", "checks/test_pooling.py", "checks/test_loaded.py", "--model", "toy_lm")
TINY = Path("fixtures/data/openvla_tiny/checkpoint")
POST_NORM = "contract.post_norm.recomputed"


def run(home: Path, *arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own, as from a terminal in the repository's root."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HARNESS", "COV"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)],
        cwd=ROOT,
        env={**inherited, "OMP_NUM_THREADS": "1", "HARNESS_HOME": str(home), **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        check=False,
    )


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def cases(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {finding["id"]: finding["cases"] for finding in report(folder)["findings"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def passed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The report folder of a run of toy_lm, and the run."""
    folder = tmp_path_factory.mktemp("passed")
    return folder, run(home, *TOY, "--report", folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "toy_ml"], ["no model named 'toy_ml'; the nearest is 'toy_lm'", "harness doctor"]),
        (["--fault", "prenorm"], ["no fault named 'prenorm'; the nearest is 'pre_norm'", "harness faults"]),
        (["--checkpoint", "opnvla=."], ["no model named 'opnvla'; the nearest is 'openvla'"]),
        (["--checkpoint", "openvla=/no/such/folder"], ["there is no checkpoint here", "/no/such/folder", "--checkpoint openvla=DIRECTORY"]),
        (["--checkpoint", "openvla"], ["--checkpoint takes MODEL=DIRECTORY, got 'openvla'"]),
        (["--dtype", "float64"], ["argument --dtype", "'float64'", "'bfloat16'"]),
        (["--attention", "flash"], ["argument --attention", "'sdpa'"]),
        (["--fault", "pre_norm", "--snapshot-update"], ["would accept the mistake as the truth"]),
    ],
    ids=["model", "fault", "checkpoint of nothing", "no directory", "no equals sign", "dtype", "attention", "fault accepted"],
)
def test_a_wrong_option_is_one_message_and_no_run(tmp_path: Path, arguments: list[str], said: list[str]) -> None:
    found = run(tmp_path / "home", "checks/test_post_norm.py", *arguments, "--report", tmp_path / "report")
    told = found.stdout + found.stderr
    assert found.returncode == pytest.ExitCode.USAGE_ERROR, told
    assert all(words in told for words in said), told
    assert told.count("ERROR: ") == 1
    assert "Traceback" not in told
    assert not (tmp_path / "report").exists()


def test_a_path_swallowed_by_the_checkpoint_option_is_told_what_happened(tmp_path: Path) -> None:
    found = run(tmp_path, "--checkpoint", f"openvla={TINY}", "checks/test_post_norm.py")
    assert found.returncode == pytest.ExitCode.USAGE_ERROR
    assert "got 'checks/test_post_norm.py'; put test paths before it" in found.stderr


def test_a_passing_run_reports_every_outcome_of_the_model_and_no_other(passed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, found = passed
    assert found.returncode == 0, found.stdout
    written = report(folder)
    assert written["counts"] == {"drifted": 0, "contradicted": 0, "reproduced": len(written["findings"]), "unmeasured": 0}
    assert POST_NORM in cases(folder)
    assert len(cases(folder)) > 1
    assert {case["subject"] for each in cases(folder).values() for case in each} == {"toy_lm:mock"}
    (case,) = cases(folder)[POST_NORM]
    assert (case["verdict"], case["layer"]) == ("reproduced", None)
    assert 0 <= case["measured"] <= 1e-5
    assert written["fault"] is None
    assert written["environment"]["dtype"] == "float32"
    assert "--model toy_lm" in written["command"]
    assert f"{len(cases(folder))} of {len(cases(folder))} measured findings hold" in found.stdout


def test_a_run_writes_the_page_the_text_the_data_and_the_junit_file(passed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, found = passed
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.md", "report.json", "junit.xml"}
    assert f"report: {folder / 'index.html'}" in found.stdout


def test_a_question_that_no_finding_asks_of_the_model_is_deselected(passed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, found = passed  # test_loaded.py asks of real weights only
    assert "1 deselected" in found.stdout
    assert "skipped" not in found.stdout


def test_workers_reach_the_outcomes_of_one_process(home: Path, tmp_path: Path, passed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    found = run(home, *TOY, "-n", "2", "--report", tmp_path)
    assert found.returncode == 0, found.stdout

    def timeless(folder: Path) -> dict[str, Any]:
        written = report(folder)
        for case in (case for finding in written["findings"] for case in finding["cases"]):
            del case["seconds"]
        return {name: value for name, value in written.items() if name not in ("created", "seconds", "command")}

    assert timeless(tmp_path) == timeless(passed[0])


def test_a_fault_turns_a_finding_red_and_is_told_everywhere(home: Path, tmp_path: Path) -> None:
    found = run(home, "checks/test_post_norm.py", "--model", "toy_lm", "--fault", "pre_norm", "--report", tmp_path)
    assert found.returncode == pytest.ExitCode.TESTS_FAILED, found.stdout
    (case,) = cases(tmp_path)[POST_NORM]
    assert case["verdict"] == "drifted"
    assert case["measured"] > 1
    assert report(tmp_path)["fault"] == "pre_norm"
    assert "FAULT INJECTED: pre_norm" in found.stdout
    assert f"red: {POST_NORM}" in found.stdout
    assert "fault pre_norm: caught" in found.stdout


def test_what_needs_a_gpu_or_a_checkpoint_is_skipped_with_the_option_that_provides_it(home: Path, tmp_path: Path) -> None:
    found = run(home, "checks/test_post_norm.py", "-m", "gpu", "--report", tmp_path)
    assert found.returncode == 0, found.stdout
    assert " skipped" in found.stdout
    assert "passed" not in found.stdout
    found_cases = {case["subject"]: case for case in cases(tmp_path)[POST_NORM]}
    assert {(case["verdict"], case["measured"]) for case in found_cases.values() if case["subject"].split(":")[1] in ("full", "checkpoint") and "tiny" not in case["subject"]} == {("unmeasured", None)}
    for told in (found.stdout, found_cases["openvla:checkpoint"]["message"]):
        assert "pass --checkpoint openvla=DIRECTORY" in told
    assert "no CUDA device was found" in found_cases["openvla:full"]["message"]


def test_a_given_checkpoint_runs_the_checkpoint_scale(home: Path, tmp_path: Path) -> None:
    arguments = ("--model", "openvla", "-m", "gpu", "--checkpoint", f"openvla={TINY}")
    found = run(home, "checks/test_post_norm.py", "checks/test_loaded.py", "--report", tmp_path, *arguments)
    assert found.returncode == 0, found.stdout
    measured = cases(tmp_path)
    assert set(measured) == {POST_NORM, "contract.loaded"}
    assert {(case["subject"], case["verdict"]) for each in measured.values() for case in each} == {("openvla:checkpoint", "reproduced")}


def test_a_damaged_finding_stops_the_run_and_names_its_file_and_field(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "checks/findings", tmp_path / "findings"))
    text = (folder / "contract.toml").read_text(encoding="utf-8")
    (folder / "contract.toml").write_text(text.replace('compare = "at_most"', 'compare = "at_mots"', 1), encoding="utf-8")
    found = run(tmp_path, "checks/test_post_norm.py", "--model", "toy_lm", "--report", tmp_path / "report", HARNESS_FINDINGS=folder)
    told = found.stdout + found.stderr
    assert found.returncode == 4, told
    assert "Traceback" not in told
    for words in (f"{folder / 'contract.toml'}, field finding.0.compare", "'at_mots'", "Input should be 'equal', 'at_most' or 'at_least'"):
        assert words in told
    assert not (tmp_path / "report/report.json").exists()


def test_a_checkpoint_that_was_given_and_holds_no_weights_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = run(tmp_path, "checks/test_post_norm.py", "--model", "openvla", "--device", "cpu", "--checkpoint", f"openvla={tmp_path / 'empty'}")
    assert found.returncode == 4, found.stdout
    assert "holds no weights" in found.stderr


def test_a_checkpoint_of_a_model_without_that_scale_is_refused(tmp_path: Path) -> None:
    found = run(tmp_path, "checks/test_post_norm.py", "--checkpoint", f"toy_lm={tmp_path}")
    assert found.returncode == 4, found.stdout
    assert "toy_lm has no checkpoint scale" in found.stderr


def test_another_project_s_parameter_named_case_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text("import pytest\n\n@pytest.mark.parametrize('case', [1, 2])\ndef test_theirs(case):\n    assert case == 1\n")
    found = run(tmp_path, tmp_path / "test_theirs.py")
    assert "1 failed, 1 passed" in found.stdout


def test_the_markers_are_known_where_markers_must_be(tmp_path: Path) -> None:
    found = run(tmp_path, "--strict-markers", "--markers", "checks/")
    assert found.returncode == 0
    for name in ("mock", "real", "gpu", "sim", "slow", "question(name)"):
        assert f"@pytest.mark.{name}:" in found.stdout


def test_a_run_of_the_harness_s_own_tests_writes_no_report(tmp_path: Path) -> None:
    found = run(tmp_path, "tests/test_errors.py", "-k", "nearest", "--report", tmp_path / "report")
    assert found.returncode == 0, found.stdout
    assert not (tmp_path / "report").exists()
