"""`harness align` as document 004 calls compute_cknna.py, and `harness align-layers`."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from harness.cli import _align
from harness.cli._app import app
from harness.errors import HarnessError, MissingError, UnknownNameError, UsageError
from harness.scores import Score
from harness.store import Key, Store

MODELS = ("spatialvla-sft-bridge", "pi0-lerobot-bridge", "Qwen-GR00T-Bridge")
N, EPISODES = 60, 12
DOCUMENTED = """--feats_A cknna_data/spatialvla-sft-bridge/feats_A.pt cknna_data/pi0-lerobot-bridge/feats_A.pt cknna_data/Qwen-GR00T-Bridge/feats_A.pt
    --feats_B cknna_data/feats_B.pt --topk 5 10 20 --also_mutual_knn --output cknna_data/cknna_results_simplerenv.json"""
QUICK = ("--permutations", 9, "--draws", 0)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of document 004 with small tensors, in the working folder."""
    rng, folder = np.random.default_rng(0), tmp_path / "cknna_data"
    folder.mkdir()
    episode = np.repeat(np.arange(EPISODES), N // EPISODES)
    state = rng.normal(size=(EPISODES, 7))[episode] + 0.5 * rng.normal(size=(N, 7))
    torch.save(torch.from_numpy(state).float(), folder / "feats_B.pt")
    told = {"num_samples": N, "task_descriptions": [""] * N, "episode_indices": episode.tolist(), "frame_indices": list(range(N))}
    (folder / "metadata.json").write_text(json.dumps(told), encoding="utf-8")
    for width, name in enumerate(MODELS, 16):
        (folder / name).mkdir()
        torch.save(torch.from_numpy(state @ rng.normal(size=(7, width)) + 2 * rng.normal(size=(N, width))).float(), folder / name / "feats_A.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    return folder


def run(*arguments: object) -> None:
    """Runs the command in this process; its errors are raised."""
    app(list(map(str, arguments)), standalone_mode=False)


def told(*arguments: object, capsys: pytest.CaptureFixture[str]) -> dict:
    run("align", *arguments, "--json", *QUICK)
    return json.loads(capsys.readouterr().out)


def published(x: torch.Tensor, y: torch.Tensor, k: int) -> tuple[float, float]:
    """CKNNA and mutual_knn in float32 with dense matrices, as the published script defines them."""
    x, y = (torch.nn.functional.normalize(one, dim=-1) for one in (x, y))
    n, kernels = len(x), (x @ x.T, y @ y.T)
    off = 1 - torch.eye(n)
    near = [torch.zeros(n, n).scatter(1, (kernel - 1e9 * torch.eye(n)).topk(k).indices, 1.0) for kernel in kernels]

    def hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a * off, b * off
        return ((a * b.T).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)) / (n * (n - 3))

    both = near[0] * near[1]
    own = [hsic(one * kernel, one * kernel) for one, kernel in zip(near, kernels, strict=True)]
    return float(hsic(both * kernels[0], both * kernels[1]) / ((own[0] * own[1]).sqrt() + 1e-6)), float(both.sum() / (k * n))


def test_the_document_s_own_command_line_writes_the_published_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("align", *shlex.split(DOCUMENTED), *QUICK)
    result = json.loads((data / "cknna_results_simplerenv.json").read_text(encoding="utf-8"))
    meta = result["_meta"]
    assert (meta["feats_B_path"], meta["feats_B_shape"], meta["N"], meta["k_values"]) == ("cknna_data/feats_B.pt", [N, 7], N, [5, 10, 20])
    assert list(result["models"]) == list(MODELS)
    y = torch.load(data / "feats_B.pt", weights_only=True)
    for width, name in enumerate(MODELS, 16):
        entry = result["models"][name]
        assert (entry["feats_A_path"], entry["feats_A_dim"]) == (f"cknna_data/{name}/feats_A.pt", width)
        for k in (5, 10, 20):
            expected = published(torch.load(data / name / "feats_A.pt", weights_only=True), y, k)
            assert (entry[f"cknna_k{k}"], entry[f"mutual_knn_k{k}"]) == pytest.approx(expected, abs=1e-5)
            assert set(entry["scores"][f"cknna_k{k}"]) == set(entry["across_episodes"][f"cknna_k{k}"]) == set(Score._fields)
    said = capsys.readouterr()
    assert "episodes are those of" in said.err and "cknna_results_simplerenv.png" in said.out
    assert (data / "cknna_results_simplerenv.png").read_bytes().startswith(b"\x89PNG")


def test_spellings_and_repeated_flags_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (f"cknna_data/{name}" for name in MODELS[:2])
    first = told("--feats_A", one, other, "--feats_B", "cknna_data", "--topk", 5, 10, "--also_mutual_knn", capsys=capsys)
    again = told("--feats-b", "cknna_data", "--feats-a", one, "--feats-a", other, "--topk", 5, "--topk", 10, "--metric", "mutual_knn", capsys=capsys)
    assert first["models"] == again["models"] and list(first["models"]) == list(MODELS[:2])
    assert list(told("--feats_A", "cknna_data/pi0-lerobot-bridge", "--feats_B", "cknna_data", capsys=capsys)["models"]["pi0-lerobot-bridge"])[2] == "cknna_k10"


def test_a_comma_is_part_of_a_file_s_name(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "a,b").mkdir()
    (data / "a,b/feats_A.pt").write_bytes((data / MODELS[0] / "feats_A.pt").read_bytes())
    found = told("--feats_A", "cknna_data/a,b/feats_A.pt", f"cknna_data/{MODELS[1]}", "--feats_B", "cknna_data", capsys=capsys)
    assert list(found["models"]) == ["a,b", MODELS[1]]


def test_two_files_of_one_folder_are_two_models_with_a_warning(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / MODELS[0] / "feats_A.pt").rename(data / "feats_A_pointA.pt")
    (data / MODELS[1] / "feats_A.pt").rename(data / "feats_A_pointB.pt")
    run("align", "--feats_A", "cknna_data/feats_A_pointA.pt", "cknna_data/feats_A_pointB.pt", "--feats_B", "cknna_data/feats_B.pt", "--json", *QUICK)
    said = capsys.readouterr()
    assert list(json.loads(said.out)["models"]) == ["cknna_data/feats_A_pointA", "cknna_data/feats_A_pointB"]
    assert said.err.count("stands for several files") == 2


class TestEpisodes:
    def test_they_are_found_beside_the_reference_and_can_be_left(self, capsys: pytest.CaptureFixture[str]) -> None:
        models = ("--feats_A", f"cknna_data/{MODELS[0]}", "--feats_B", "cknna_data/feats_B.pt")
        found, left = told(*models, capsys=capsys), told(*models, "--independent", capsys=capsys)
        assert found["_meta"]["episodes"] == EPISODES and left["_meta"]["episodes"] is None
        assert found["models"][MODELS[0]]["across_episodes"] and not left["models"][MODELS[0]]["across_episodes"]
        assert found["models"][MODELS[0]]["scores"]["cknna_k10"]["null_low"] > left["models"][MODELS[0]]["scores"]["cknna_k10"]["null_low"]

    def test_a_file_without_episodes_is_said_where_found_and_refused_where_named(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (data / "metadata.json").write_text("{}", encoding="utf-8")
        models = ("--feats_A", f"cknna_data/{MODELS[0]}", "--feats_B", "cknna_data/feats_B.pt")
        run("align", *models, "--json", *QUICK)
        said = capsys.readouterr()
        assert "tells no episodes" in said.err and json.loads(said.out)["_meta"]["episodes"] is None
        with pytest.raises(HarnessError, match="tells no episodes"):
            run("align", *models, "--metadata", data / "metadata.json")

    def test_metadata_of_other_data_are_refused(self, data: Path) -> None:
        (data / "metadata.json").write_text('{"episode_indices": [1, 2, 3]}', encoding="utf-8")
        with pytest.raises(UsageError, match=r"do not describe these features(.|\n)*60 rows(.|\n)*3 samples"):
            run("align", "--feats_A", f"cknna_data/{MODELS[0]}", "--feats_B", "cknna_data/feats_B.pt", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--feats_A", "cknna_data/none/feats_A.pt"], MissingError, "no file of features(.|\n)*cknna_data/none/feats_A.pt"),
        (["--feats_A", "cknna_data/short.npy"], UsageError, r"59 rows in .*short.npy, 60 rows in .*feats_B.pt"),
        (["--feats_A", f"cknna_data/{MODELS[0]}", "--topk", "60"], UsageError, "topk 60 of 60 samples"),
        (["--feats_A", f"cknna_data/{MODELS[0]}", "--metric", "mutual_nn"], UnknownNameError, "nearest is 'mutual_knn'"),
        (["--feats_A", f"cknna_data/{MODELS[0]}", "--output", "cknna_data/feats_B.pt/out.json"], UsageError, "cannot be written"),
    ],
)
def test_a_wrong_request_is_answered(data: Path, arguments: list[str], kind: type[HarnessError], message: str) -> None:
    np.save(data / "short.npy", np.ones((N - 1, 3)))
    with pytest.raises(kind, match=message):
        run("align", *arguments, "--feats_B", "cknna_data/feats_B.pt", *QUICK)


def test_the_features_are_required() -> None:
    for arguments in (["--feats_B", "cknna_data"], ["--feats_A", "cknna_data"]):
        with pytest.raises(typer.BadParameter):
            run("align", *arguments)


def test_figures_go_where_they_are_asked_to(data: Path) -> None:
    run("align", "--feats_A", f"cknna_data/{MODELS[0]}", "--feats_B", "cknna_data", "--output", "results/a.json", "--plots", "figures", *QUICK)
    assert [path.name for path in Path("results").iterdir()] == ["a.json"] and [path.name for path in Path("figures").iterdir()] == ["a.png"]
    assert json.loads(Path("results/a.json").read_text(encoding="utf-8"))["models"][MODELS[0]]["scores"]["cknna_k10"]["low"] is None


class TestStore:
    @pytest.fixture
    def keys(self, tmp_path: Path) -> list[str]:
        """Entries of one extraction with three points, one sample short of the reference."""
        parts = {name: "x" for name in Key.__annotations__} | {"subject": "mock:real", "pooling": "mean", "versions": {}, "fault": None}
        store, ids = Store(tmp_path / "home/store"), tuple(f"{row:06d}" for row in range(N - 1))
        rows = [np.random.default_rng(layer).normal(size=(N - 1, 5 + layer)).astype(np.float32) for layer in range(3)]
        return [store.write(Key(**parts | {"point": f"lm.{layer:02d}.output"}), values, ids).key for layer, values in enumerate(rows)]  # type: ignore[arg-type]

    def test_an_entry_is_a_model(self, keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("--feats_A", keys[0][:12], f"{keys[0][:12]}:lm.02.output", "--feats_B", "cknna_data")
        with pytest.raises(UsageError, match=r"59 rows(.|\n)*60 rows(.|\n)*--shared"):
            run("align", *arguments, *QUICK)
        result = told(*arguments, "--shared", capsys=capsys)
        assert list(result["models"]) == ["mock:real lm.00.output", "mock:real lm.02.output"]
        assert result["models"]["mock:real lm.02.output"]["scores"]["cknna_k10"]["n"] == N - 1 and len(result["_meta"]["notes"]) == 2

    def test_layers_make_a_matrix_a_picture_and_a_page(self, data: Path, keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        points = ("--point-b", "lm.01.output", "--point-b", "lm.2.output")
        run("align-layers", keys[1][:12], keys[0], "--topk", 5, *points, "--metadata", data / "metadata.json", "--output", "map.json")
        found = json.loads(Path("map.json").read_text(encoding="utf-8"))
        assert found["rows"] == [f"lm.{layer:02d}.output" for layer in range(3)] and found["columns"] == ["lm.01.output", "lm.02.output"]
        assert found["value"][1][0] == found["value"][2][1] == pytest.approx(1, abs=1e-9) and found["best"]["lm.01.output"] == "lm.01.output"
        assert found["_meta"]["across_episodes"] is True and all(math.isfinite(one) for row in found["value"] for one in row)
        assert Path("map.png").read_bytes().startswith(b"\x89PNG") and "lm.NN.output" in Path("map.html").read_text(encoding="utf-8")
        assert "nearest point of B" in capsys.readouterr().out

    @pytest.mark.parametrize("metric", ["cka", "mutual_knn"])
    def test_layers_take_any_metric_of_pairs(self, keys: list[str], metric: str, capsys: pytest.CaptureFixture[str]) -> None:
        run("align-layers", keys[0], keys[0], "--metric", metric, "--json", "--permutations", 3, "--draws", 2)
        found = json.loads(capsys.readouterr().out)
        assert [found["value"][i][i] for i in range(3)] == pytest.approx([1, 1, 1]) and len(found["p_value"]) == 3
        assert found["_meta"]["topk"] == (10 if metric == "mutual_knn" else None)


def test_the_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert _align._best_device() == device
