"""`harness extract` as document 000 calls it, and as its other users do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import typer

from harness.cli import _app, _extract, _model, _rollout
from harness.cli._app import app
from harness.errors import HarnessError, UnknownNameError, UsageError
from harness.store import Store

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "fixtures/data/libero_rlds"
DOCUMENTED = """--model_path "mock/model_id" --dataset_name "mock_dataset_for_testing" --dataset_split train --image_key observation.image
    --instruction_key episode_metadata.natural_language_instruction --layers 0,1,2 --positions -1 --num_episodes 1 --max_steps_per_episode 3
    --test_mode --visualize"""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


def extract(*arguments: object) -> None:
    """Runs the command in this process; its errors are raised."""
    app(["extract", *map(str, arguments)], standalone_mode=False)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_document_s_own_command_line_makes_the_documented_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract(*shlex.split(DOCUMENTED), "--output_dir", tmp_path / "out")
    names = [f"layer_{layer}_residual_output.pt" for layer in (0, 1, 2)] + ["pca_step_visualization.png", "step_metadata.json"]
    wanted = [f"mock_0000/step_{step:04d}/{name}" for step in range(3) for name in names] + ["pca_run_visualization.png"]
    assert sorted(files(tmp_path / "out")) == sorted(wanted)
    meta = json.loads((tmp_path / "out/mock_0000/step_0002/step_metadata.json").read_text(encoding="utf-8"))
    assert (meta["layers_extracted"], meta["positions_extracted"], meta["image_key_used"]) == ([0, 1, 2], [-1], "observation.image")
    assert meta["instruction_key_used"] == "episode_metadata.natural_language_instruction"
    assert torch.load(tmp_path / "out/mock_0000/step_0002/layer_1_residual_output.pt", weights_only=True).dtype == torch.bfloat16
    assert "3 samples, 0 left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("streams", "embedding", "found"),
    [
        (["--residual_stream_types", "input", "output"], True, ["layer_0_residual_input", "layer_0_residual_output", "layer_L0_embedding_embedding_output"]),
        (["--residual_stream_types", "input,output"], False, ["layer_0_residual_input", "layer_0_residual_output"]),
        (["--residual-stream-types", "input"], False, ["layer_0_residual_input"]),
        ([], False, ["layer_0_residual_output"]),
    ],
    ids=["two words", "a comma", "one", "default"],
)
def test_streams_are_given_as_words_or_with_commas(tmp_path: Path, streams: list[str], embedding: bool, found: list[str]) -> None:
    more = ["--include_layer0_embedding"] if embedding else []
    extract("--test_mode", "--model_path", "x", "--dataset_name", "y", "--layers", "0", *streams, "--max_steps_per_episode", 1, "--output_dir", tmp_path / "out", *more)
    assert sorted(path.stem for path in (tmp_path / "out/mock_0000/step_0000").glob("*.pt")) == found


def test_npy_of_bfloat16_is_float32_and_says_so(tmp_path: Path) -> None:
    extract("--test_mode", "--model_path", "x", "--dataset_name", "y", "--layers", "-1", "--format", "npy", "--max_steps_per_episode", 1, "--output_dir", tmp_path / "out")
    meta = json.loads((tmp_path / "out/mock_0000/step_0000/step_metadata.json").read_text(encoding="utf-8"))
    assert (meta["dtype"], meta["stored_dtype"]) == ("bfloat16", "float32")


RLDS = ("--test_mode", "--model_path", "openvla/openvla-7b", "--layers", "0,-1", "--num_episodes", 2, "--max_steps_per_episode", 2)


def test_recorded_episodes_give_the_same_numbers_in_both_file_formats(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="tfrecord needs TensorFlow: pip install -e '.[tfrecord]' -c constraints.txt")
    found = {}
    for form in ("array_record", "tfrecord"):
        extract(*RLDS, "--dataset_name", RECORDED / form / "libero_object", "--dataset_split", "train[25%:75%]", "--output_dir", tmp_path / form)
        found[form] = {name: data for name, data in files(tmp_path / form).items() if name.endswith(".pt")}
    assert found["array_record"] == found["tfrecord"] and len(found["tfrecord"]) == 8
    assert {name.partition("/")[0] for name in found["tfrecord"]} == {"train_000003", "train_000004"}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--image_key", "observation.imag"], r"no image key named 'observation.imag'; the nearest is 'observation.image'(.|\n)*observation.wrist_image"),
        (["--instruction_key", "language"], r"no instruction key named 'language'(.|\n)*language_instruction"),
        (["--dataset_split", "test"], r"no split named 'test'(.|\n)*train"),
        (["--layers", "7"], r"there is no layer 7(.|\n)*-4 to 3"),
        (["--layers", "5-3"], r"'5-3' is no layer"),
        (["--positions", "x"], r"'x' is no position"),
        (["--format", "csv"], r"no format named 'csv'"),
        (["--residual_stream_types", "outputs"], r"no residual stream named 'outputs'; the nearest is 'output'"),
        (["--engine", "spark"], r"no engine named 'spark'"),
        (["--option", "colour"], r"an option has no value"),
        (["--option", "colour=1"], r"no option of datasets read as rlds named 'colour'"),
        (["--image_key", "a=b", "--image_key", "c"], r"several pictures need a camera each"),
        (["--layout", "store"], r"layout store has no output folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_word_is_told_before_anything_is_written(tmp_path: Path, arguments: list[str], match: str) -> None:
    with pytest.raises(HarnessError, match=match):
        extract(*RLDS, "--dataset_name", RECORDED / "array_record/libero_object", "--output_dir", tmp_path / "out", *arguments)
    assert not list((tmp_path / "out").rglob("*.pt"))


@pytest.mark.parametrize("arguments", [[], ["openvla:mock", "--model_path", "x"]], ids=["no model", "two models"])
def test_one_model_is_needed(arguments: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="one model is needed"):
        extract(*arguments, "--dataset", "photos")


def test_a_model_without_a_dataset_is_refused() -> None:
    with pytest.raises(UsageError, match="no dataset is named"):
        extract("openvla:mock")


def test_feature_files_are_those_of_document_004(tmp_path: Path) -> None:
    extract("toy_lm:mock", "--dataset", "photos", "--point", "lm.-1.output", "--layout", "features", "--output_dir", tmp_path / "one")
    assert sorted(files(tmp_path / "one")) == ["extraction_metadata.json", "feats_A.pt"]
    values = torch.load(tmp_path / "one/feats_A.pt", weights_only=True)
    told = json.loads((tmp_path / "one/extraction_metadata.json").read_text(encoding="utf-8"))
    assert (tuple(values.shape), values.dtype) == ((8, 48), torch.float32)
    assert (told["num_samples"], told["hidden_size"], told["extraction_point"], len(told["sample_ids"])) == (8, 48, "lm.03.output", 8)
    (entry,) = Store(tmp_path / "home/store").entries()
    assert told["store_key"] == entry["key"]
    extract("toy_lm:mock", "--dataset", "photos", "--layers", "0-1", "--layout", "features", "--output_dir", tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["lm.00.output", "lm.01.output"]


def test_the_summary_is_json_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    extract("toy_lm:mock", "--dataset", "photos", "--layers", "-1", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["layout"], told["rows"], told["left_out"], list(told["made"])) == ("store", 8, [], ["lm.03.output"])


def test_a_plan_of_the_dataset_is_followed_and_that_of_another_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["dataset", "plan", "libero_rlds", "--n", "7", "--by", "task", "--output", str(tmp_path / "plan.json")], standalone_mode=False)
    capsys.readouterr()
    extract("toy_lm:mock", "--dataset", "libero_rlds", "--layers", "-1", "--plan", tmp_path / "plan.json", "--json")
    assert json.loads(capsys.readouterr().out)["rows"] == 7
    with pytest.raises(UsageError, match="dataset"):
        extract("toy_lm:mock", "--dataset", "photos", "--layers", "-1", "--plan", tmp_path / "plan.json")


# ---------------------------------------------------------------- the model that is meant


@pytest.mark.parametrize(("text", "subject"), [("mock/model_id", "openvla:mock"), ("openvla/openvla-7b", "openvla:mock"), ("spatialvla", "spatialvla:mock"), ("toy_lm:real", "toy_lm:mock")])
def test_test_mode_takes_tiny_weights_of_the_model_that_is_meant(text: str, subject: str) -> None:
    assert _model.find_subject(text, test_mode=True).id == subject


def test_a_checkpoint_folder_is_recognised_by_its_files() -> None:
    folder = ROOT / "fixtures/data/openvla_tiny/checkpoint"
    found = _model.find_subject(str(folder))
    assert (found.id, found.weights.directory) == ("openvla:checkpoint", folder)


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [("openvla/openvla-7b", HarnessError, "harness download openvla/openvla-7b"), ("openvla/openvla-7c", UnknownNameError, "the nearest is 'openvla/openvla-7b'"), ("openvla:mok", UnknownNameError, "no scale of openvla named 'mok'")],
)
def test_a_model_that_is_not_here_is_answered_with_what_to_do(text: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        _model.find_subject(text)


# ---------------------------------------------------------------- progress and rollouts


def test_where_nobody_watches_a_line_is_written_every_while(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(_app.time, "monotonic", lambda: float(next(clock)))
    with _app.throughput("model", 10) as (through, done):
        for count in range(1, 5):
            done()
            through(count * 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "2 of 10 shards" in lines[0] and "samples a second" in lines[0] and "minutes left" in lines[0]


@pytest.mark.parametrize(("text", "numbers"), [("0:3", [0, 1, 2]), (":2", [0, 1]), ("4,1", [4, 1]), ("7", [7])])
def test_tasks_are_numbers_or_a_range(text: str, numbers: list[int]) -> None:
    assert _rollout._numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1:", "1-3", "0:3:2", "-1"])
def test_anything_else_is_no_task(text: str) -> None:
    with pytest.raises(UsageError, match="no task numbers"):
        _rollout._numbers(text)


def test_options_of_a_reader_are_json_or_plain_text() -> None:
    assert _extract._options(["a=1", "b=train[:10%]", 'c={"x": "y"}', "d="]) == {"a": 1, "b": "train[:10%]", "c": {"x": "y"}, "d": ""}
