"""The `harness` command: what it prints, what it leaves behind, its exit codes, and never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.numpy import load_file, save_file

from harness import cli, faults, findings, subjects
from harness.report import build, files
from harness.store import Store

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "fixtures/data/openvla_tiny/checkpoint"
COMMAND = Path(sys.executable).parent / "harness"
POST_NORM = "contract.post_norm.recomputed"


def environment(home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS")}
    return {**inherited, "OMP_NUM_THREADS": "1", "HARNESS_HOME": str(home), "COLUMNS": "200"}


def run(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    return subprocess.run([str(COMMAND), *map(str, arguments)], cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False)


class Called(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # noqa: ANN201
    """`call(*arguments)`: the same entry point in this process, which has its libraries loaded already."""
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("HARNESS")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Called(int(ended.value.code or 0), out, err)

    return called


def test_the_installed_command_lists_its_commands(tmp_path: Path) -> None:
    found = run(tmp_path, "--help")
    assert found.returncode == 0
    assert all(f"\n  {name} " in found.stdout for name in ("doctor", "findings", "faults", "extract", "report", "inspect", "download", "store"))
    assert not any(tmp_path.iterdir())


def test_the_installed_command_refuses_in_words_and_not_in_a_traceback(tmp_path: Path) -> None:
    found = run(tmp_path, "findings", "contract.post_norm.recompute")
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: there is no finding named 'contract.post_norm.recompute'; the nearest is '{POST_NORM}'")
    assert "harness findings lists them" in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("word", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], ["doctor"], ["findings"], ["faults"], ["extract"], ["report"], ["inspect"], ["download"], ["store"], ["store", "verify"]], ids=" ".join)
def test_every_command_explains_itself(call, command: list[str], word: str) -> None:
    found = call(*command, word)
    assert found.code == 0
    assert f"harness {' '.join([*command, ''])}" in found.out.splitlines()[0]
    assert "Show this message and exit" in found.out


def test_doctor_lists_every_subject_with_its_state(call) -> None:
    found = call("doctor", "--json")
    rows = {row["part"]: row for row in json.loads(found.out)}
    assert found.code == 0
    assert set(subjects.subject_ids()) <= set(rows)
    assert rows["toy_lm:mock"]["state"] == "ready"
    assert rows["openvla:checkpoint"]["state"] == "missing"
    assert "--checkpoint openvla=DIRECTORY" in rows["openvla:checkpoint"]["next command"]


def test_findings_are_listed_in_the_order_of_their_documents(call) -> None:
    found = call("findings", "--json")
    known = [finding for document in findings.load() for finding in document.finding]
    assert [row["finding"] for row in json.loads(found.out)] == [finding.id for finding in known]
    assert [row["claim"] for row in json.loads(found.out)] == [finding.claim for finding in known]
    table = call("findings").out
    assert all(finding.id in table for finding in known)


def test_one_finding_is_shown_in_full_with_its_cases(call) -> None:
    rows = {row["field"]: row["value"] for row in json.loads(call("findings", POST_NORM, "--json").out)}
    assert rows["id"] == POST_NORM
    assert rows["compare"] == "at_most"
    assert "toy_lm-mock" in rows["cases"].split(", ")
    assert "openvla-abstract" not in rows["cases"]


def test_the_points_of_a_subject_are_those_of_its_contract(call) -> None:
    rows = json.loads(call("findings", "--points", "toy_lm:mock", "--json").out)
    assert len(rows) == 10  # embedding, input and output of four blocks, final norm
    assert {"point": "lm.02.output", "module": "layers.2", "side": "output", "width": "48", "norm": "raw", "hidden_states": "3"} in rows


def test_every_fault_is_listed_with_its_mistake_and_what_catches_it(call) -> None:
    rows = {row["fault"]: row for row in json.loads(call("faults", "--json").out)}
    assert rows.keys() == faults.summaries().keys()
    assert all(row["mistake"].endswith(".") for row in rows.values())
    named = {(fault, finding.id) for document in findings.load() for finding in document.finding for fault in finding.broken_by if fault in rows}
    assert named == {(fault, finding) for fault, row in rows.items() for finding in row["caught by"].split(", ") if finding}


EXTRACT = ("extract", "toy_lm:mock", "--dataset", "photos", "--point", "lm.01.output", "--point", "lm.-1.output")


def keys(out: str) -> list[str]:
    return [line.split()[-1] for line in out.splitlines() if line.startswith("lm.")]


def test_a_second_extraction_prints_the_same_keys_and_computes_nothing(tmp_path: Path, call) -> None:
    store = Store(tmp_path / "store")
    first = run(tmp_path / "home", *EXTRACT, "--store", store.root)
    assert first.returncode == 0, first.stderr
    assert [line.split()[0] for line in first.stdout.splitlines() if line.startswith("lm.")] == ["lm.01.output", "lm.03.output"]
    assert Counter(event["event"] for event in store.events()) == {"written": 2}
    second = call(*EXTRACT, "--batch_size", "3", "--store", store.root)
    assert second.code == 0
    assert keys(second.out) == keys(first.stdout) == [entry["key"] for entry in sorted(store.entries(), key=lambda entry: entry["parts"]["point"])]
    assert Counter(event["event"] for event in store.events()) == {"written": 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy_ml:mock", "--dataset", "photos", "--point", "lm.01.output"], "no model named 'toy_ml'; the nearest is 'toy_lm'"),
        (["toy_lm:mok", "--dataset", "photos", "--point", "lm.01.output"], "no scale of toy_lm named 'mok'; the nearest is 'mock'"),
        (["toy_lm:mock", "--dataset", "photo", "--point", "lm.01.output"], "no dataset named 'photo'; the nearest is 'photos'"),
        (["toy_lm:mock", "--dataset", "photos", "--point", "lm.01.outputs"], "no extraction point named 'lm.01.outputs'; the nearest is 'lm.01.output'"),
        (["toy_lm:mock", "--dataset", "photos", "--point", "lm.09.output"], "no extraction point named 'lm.09.output'; the nearest is 'lm.0"),
        (["toy_lm:mock", "--dataset", "photos", "--point", "LM 1"], "'LM 1' is not an extraction point"),
        (["toy_lm:mock", "--dataset", "photos", "--point", "lm.01.output", "--pooling", "maen"], "no pooling named 'maen'; the nearest is 'mean'"),
        (["toy_lm:mock", "--dataset", "photos", "--point", "lm.01.output", "--pooling", "mean:txt"], "no span named 'txt'; the nearest is 'text'"),
        (["toy_lm:mock", "--dataset", "photos", "--point", "lm.01.output", "--dtype", "float61"], "no dtype named 'float61'; the nearest is 'float16'"),
        (["toy_lm:mock", "--dataset", "photos", "--point", "lm.01.output", "--attention", "flash"], "no attention named 'flash'"),
        (["openvla:checkpoint", "--dataset", "photos", "--point", "lm.01.output"], "openvla:checkpoint has no weights here"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[:40],
)
def test_a_wrong_word_is_exit_code_two_with_the_nearest_right_one(call, tmp_path: Path, arguments: list[str], said: str) -> None:
    found = call("extract", *arguments, "--store", tmp_path / "store")
    assert found.code == 2
    assert found.err.startswith("error: ")
    assert said in found.err
    assert Store(tmp_path / "store").entries() == []


@pytest.mark.parametrize("arguments", [["extract"], ["extract", "toy_lm:mock", "--dataset", "photos", "--point", "lm.01.output", "--batch-size", "0"], ["extrct"], ["doctor", "--jsn"]], ids=" ".join)
def test_a_malformed_command_line_is_exit_code_two(call, arguments: list[str]) -> None:
    found = call(*arguments)
    assert found.code == 2
    assert "Error: " in found.err


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def test_a_checkpoint_that_fits_its_family_is_exit_code_zero(call, tiny: Path) -> None:
    found = call("inspect", tiny)
    assert found.code == 0
    assert found.err.strip() == ""
    words = found.out.split()
    assert all(word in words for word in ("openvla", "safetensors", "vision", "projector", "language", "300,002", "float32"))
    assert len(found.out.splitlines()) < 50
    parsed = json.loads(call("inspect", tiny, "--json").out)
    assert (parsed["checkpoint"]["fits"], parsed["other"], parsed["difference"]) == (True, None, None)


def test_a_checkpoint_with_other_keys_is_exit_code_one_and_the_difference_is_shown(call, tiny: Path, tmp_path: Path) -> None:
    state = load_file(TINY / "model.safetensors")
    state["projector.fc9.weight"] = state.pop("projector.fc1.weight")
    save_file(state, tiny / "model.safetensors")
    found = call("inspect", tiny)
    assert found.code == 1
    assert "missing: 1" in found.out
    assert "unexpected: 1" in found.out
    both = call("inspect", TINY, tiny)
    assert both.code == 1
    assert "only in the second: 1" in both.out
    assert call("inspect", TINY, TINY, "--digest").code == 0
    parsed = json.loads(call("inspect", TINY, tiny, "--json").out)
    assert (parsed["checkpoint"]["fits"], parsed["other"]["fits"], parsed["difference"]["only_first"]) == (True, False, ["projector.fc1.weight"])


def test_checkpoints_of_one_family_that_differ_in_dtype_are_exit_code_one(call, tiny: Path) -> None:
    save_file({name: tensor.astype("float16") for name, tensor in load_file(TINY / "model.safetensors").items()}, tiny / "model.safetensors")
    assert call("inspect", tiny).code == 0
    assert call("inspect", TINY, tiny).code == 1


@pytest.mark.parametrize("arguments", [["nowhere"], ["TINY", "--family", "openvlaa"], ["CUT"]], ids=" ".join)
def test_a_checkpoint_that_cannot_be_inspected_is_exit_code_two(call, tiny: Path, tmp_path: Path, arguments: list[str]) -> None:
    path = tiny / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    places = {"TINY": TINY, "CUT": tiny, "nowhere": tmp_path / "nowhere"}
    found = call("inspect", *(places.get(word, word) for word in arguments))
    assert found.code == 2
    assert found.err.startswith("error: ")
    assert found.out == ""


def test_a_download_prints_its_folder_and_passes_every_option(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def fetch(repo: str, *, revision: str | None, to: Path | None, include: object, progress: object) -> Path:
        asked.append((repo, revision, to, include))
        return tmp_path / "here"

    monkeypatch.setattr("harness.download.download", fetch)
    found = call("download", "org/tiny", "--revision", "v1", "--to", tmp_path / "here", "--include", "*.json", "--include", "*.pt")
    assert (found.code, found.out) == (0, f"{tmp_path / 'here'}\n")
    assert call("download", "openvla").code == 0
    assert asked == [("org/tiny", "v1", tmp_path / "here", ["*.json", "*.pt"]), ("openvla", None, None, ())]


def test_help_is_there_within_a_second(tmp_path: Path) -> None:
    started = time.monotonic()
    assert run(tmp_path, "--help").returncode == 0
    assert time.monotonic() - started < 1


@pytest.fixture
def filled(tmp_path: Path, call) -> Store:
    """Two feature sets of toy_lm that differ by their pooling."""
    store = Store(tmp_path / "store")
    for pooling in ("mean", "last"):
        assert call("extract", "toy_lm:mock", "--dataset", "photos", "--point", "lm.01.output", "--pooling", pooling, "--store", store.root).code == 0
    return store


def test_the_store_is_listed_explained_and_verified(filled: Store, call) -> None:
    mean, last = filled.entries()
    rows = json.loads(call("store", "list", "--store", filled.root, "--json").out)
    assert [(row["key"], row["pooling"], row["shape"]) for row in rows] == [(mean["key"][:12], "mean", "8x48"), (last["key"][:12], "last", "8x48")]
    explained = call("store", "explain", last["key"][:8], "--store", filled.root)
    assert explained.code == 0
    assert f"recomputed although {mean['key'][:12]} existed" in explained.out
    assert "mean -> last" in explained.out
    assert "computed for the first time" in call("store", "explain", mean["key"][:8], "--store", filled.root).out
    sound = call("store", "verify", "--store", filled.root)
    assert (sound.code, sound.out.splitlines()[-1]) == (0, f"0 damaged entries in {filled.root}")


def test_a_flipped_byte_is_found_by_verify(filled: Store, call) -> None:
    (shard,) = filled.root.glob(f"??/{filled.entries()[0]['key']}/shard-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    found = call("store", "verify", "--store", filled.root)
    assert found.code == 1
    assert "a shard of a store entry was altered" in found.out
    assert str(shard) in found.out
    assert f"1 damaged entries in {filled.root}" in found.out


def test_an_unknown_key_names_the_nearest_and_an_ambiguous_one_asks_for_more(filled: Store, call) -> None:
    found = call("store", "explain", "zzzz", "--store", filled.root)
    assert (found.code, found.err.split(";")[0]) == (2, "error: there is no store key named 'zzzz'")
    found = call("store", "explain", "", "--store", filled.root)
    assert found.code == 2
    assert "is the start of 2 keys" in found.err


@pytest.mark.parametrize(("verdict", "code"), [("reproduced", 0), ("unmeasured", 0), ("drifted", 1)])
def test_a_report_is_rendered_again_and_its_exit_code_tells_of_drift(tmp_path: Path, call, verdict: str, code: int) -> None:
    outcome = {"finding": POST_NORM, "subject": "toy_lm:mock", "layer": None, "verdict": verdict, "measured": 0.0, "low": None, "high": None}
    outcome |= {"control": None, "detail": "", "message": "words", "seconds": 0.1}
    built = build.build(findings.load(ROOT / "checks/findings"), [outcome], environment={}, command="pytest", started=0.0, duration=1.0, fault=None)
    files.write(built, tmp_path / "report")
    page = tmp_path / "report/index.html"
    before, data = page.read_bytes(), (tmp_path / "report/report.json").read_bytes()
    page.unlink()
    found = call("report", tmp_path / "report")
    assert found.code == code
    assert page.read_bytes() == before
    assert (tmp_path / "report/report.json").read_bytes() == data
    assert f"1 {verdict}" in found.out


def test_a_missing_report_names_the_command_that_writes_one(tmp_path: Path, call) -> None:
    found = call("report", tmp_path / "nowhere")
    assert found.code == 2
    assert "there is no report here" in found.err
    assert "pytest checks/ writes a new report" in found.err
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_report_is_refused_and_left_as_it_is(tmp_path: Path, call) -> None:
    (tmp_path / "report.json").write_text('{"schema": 1', encoding="utf-8")
    found = call("report", tmp_path)
    assert (found.code, found.err.splitlines()[0]) == (2, "error: a report is not JSON")
    assert not (tmp_path / "index.html").exists()
