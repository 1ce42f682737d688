"""The tree of document 000: the files it names, whose numbers are the model's, at positions that mean one token in every stream."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _episodes import Episodes, extracted, job, stream, tree

from harness.errors import DamagedError, UsageError
from harness.extract import _plots as plots
from harness.extract import StepSink, step_points
from harness.indices import Indices
from harness.readers import Selection
from harness.types import Point

ONE = {"episodes": 1, "steps": 2}
FILES = ["layer_0_residual_input", "layer_0_residual_output", "layer_2_residual_input", "layer_2_residual_output", "layer_L0_embedding_embedding_output"]


def made(folder: Path, *, subject: str = "openvla:mock", episodes: int = 8, **options: Any) -> Any:
    return extracted(subject, stream(Episodes(episodes), **options.pop("selection", ONE)), folder, layout="steps", **options)


def tensors(step: Path) -> dict[str, torch.Tensor]:
    return {path.stem: torch.load(path, weights_only=True) for path in sorted(step.glob("*.pt"))}


def meta(step: Path) -> dict[str, Any]:
    return json.loads((step / "step_metadata.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("format", ["pt", "npy"])
@pytest.mark.parametrize("visualize", [False, True])
def test_the_tree_is_the_documented_one_and_nothing_else(tmp_path: Path, format: str, visualize: bool) -> None:
    made(tmp_path / "out", format=format, visualize=visualize)
    files = [f"{name}.{format}" for name in FILES] + ["step_metadata.json"] + ["pca_step_visualization.png"] * visualize
    run = ["pca_run_visualization.png"] * visualize
    assert sorted(tree(tmp_path / "out")) == sorted([f"e0/step_{step:04d}/{name}" for step in (0, 1) for name in files] + run)


def test_the_metadata_has_every_documented_key_with_the_true_shapes(tmp_path: Path) -> None:
    made(tmp_path / "out", told={"image_key_used": "a", "instruction_key_used": "b", "layers_extracted": [0, 2]})
    found = meta(tmp_path / "out/e0/step_0001")
    assert {"episode_id": "e0", "step_index": 1, "image_key_used": "a", "instruction_key_used": "b", "layers_extracted": [0, 2], "positions_extracted": [-1]}.items() <= found.items()
    assert found["original_instruction"] == next(sample.instruction for sample in Episodes() if sample.id == "e0/1")
    assert found["action_from_dataset"] == {"move": [0.5, 1], "grip": 1.0}
    stored = tensors(tmp_path / "out/e0/step_0001")
    assert found["embedding_shapes"] == {name.replace("layer_", "L_"): list(value.shape) for name, value in stored.items()}
    assert all(value.shape == (1, 48) for value in stored.values())


@pytest.mark.parametrize("positions", ["-1", "0", "0,3,-1", "-2,1", "all", "2-4"])
def test_a_position_is_the_same_token_in_every_stream(tmp_path: Path, positions: str) -> None:
    """Rows are those of the sample alone, unpadded: the input of block 0 is what the embedding is, at every position."""
    made(tmp_path / "out", positions=Indices.parse(positions, "position"), selection={"episodes": 3})
    _, adapter = job("openvla:mock", stream(Episodes()), tmp_path)
    for sample in stream(Episodes(), episodes=3):
        step = tmp_path / f"out/{sample.episode}/step_{sample.step:04d}"
        stored, batch = tensors(step), adapter.encode([sample])
        alone = adapter.capture(batch, [Point("lm", "output", 2), Point("lm", "embedding")])
        kept = Indices.parse(positions).of(int(batch.tokens["lm"].mask.sum()))
        assert meta(step)["positions_in_sequence"] == list(kept)
        torch.testing.assert_close(stored["layer_0_residual_input"], stored["layer_L0_embedding_embedding_output"], rtol=0, atol=0)
        for name, point in (("layer_2_residual_output", Point("lm", "output", 2)), ("layer_L0_embedding_embedding_output", Point("lm", "embedding"))):
            wanted = alone[point][0, list(kept)]
            torch.testing.assert_close(stored[name], wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


def test_two_numbers_for_one_token_are_that_token_once(tmp_path: Path) -> None:
    """-38 and 0 are the same token of a sequence of 38, which `put` must not take for the first two of three."""
    made(tmp_path / "all", positions=Indices.parse("all", "position"))
    every = tensors(tmp_path / "all/e0/step_0000")["layer_2_residual_output"]
    made(tmp_path / "out", positions=Indices.parse(f"-{len(every)},0,5", "position"), selection={"episodes": 1, "steps": 1})
    assert meta(tmp_path / "out/e0/step_0000")["positions_in_sequence"] == [0, 5]
    torch.testing.assert_close(tensors(tmp_path / "out/e0/step_0000")["layer_2_residual_output"], every[[0, 5]], rtol=0, atol=2e-5 * float(every.abs().max()))


def test_positions_are_not_all_alike_so_the_test_above_can_fail(tmp_path: Path) -> None:
    made(tmp_path / "out", positions=Indices.parse("all", "position"))
    values = tensors(tmp_path / "out/e0/step_0000")["layer_2_residual_output"]
    gaps = torch.cdist(values, values) + 1e9 * torch.eye(len(values))
    assert float(gaps.min()) > 1e-3 * float(values.abs().max())


def test_bfloat16_is_stored_as_such_in_pt_and_as_the_same_numbers_in_npy(tmp_path: Path) -> None:
    for format in ("pt", "npy"):
        made(tmp_path / format, format=format, dtype="bfloat16")
    half = torch.load(tmp_path / "pt/e0/step_0000/layer_2_residual_output.pt", weights_only=True)
    wide = np.load(tmp_path / "npy/e0/step_0000/layer_2_residual_output.npy")
    assert (half.dtype, wide.dtype) == (torch.bfloat16, np.float32)
    np.testing.assert_allclose(half.float().numpy(), wide, rtol=2**-8)


def test_a_position_that_a_sequence_has_not_is_a_failure_with_its_length(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"too many records(.|\n)*first e0/0: there is no position 500: its sequence has \d+ tokens"):
        made(tmp_path / "out", positions=Indices.parse("0,500", "position"))
    lengths = {}
    made(tmp_path / "all", positions=Indices.parse("all", "position"), selection={})
    for path in (tmp_path / "all").glob("*/*/step_metadata.json"):
        lengths[meta(path.parent)["sample_id"]] = len(meta(path.parent)["positions_in_sequence"])
    middle = sorted(lengths.values())[len(lengths) // 2]
    summary = extracted("openvla:mock", stream(Episodes()), tmp_path / "some", layout="steps", positions=Indices.parse(str(middle), "position"), max_failures=100)
    assert {record.id for record in summary.broken} == {name for name, length in lengths.items() if length <= middle}
    assert 0 < summary.rows < len(lengths)


def test_a_folder_with_another_extraction_is_refused_and_left_alone(tmp_path: Path) -> None:
    made(tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another extraction(.|\n)*choose another --output_dir"):
        made(tmp_path / "out", settings={"a": 2})
    assert tree(tmp_path / "out") == before


def test_a_folder_with_another_extraction_that_did_not_end_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StepSink, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        made(tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another extraction(.|\n)*choose another --output_dir"):
        made(tmp_path / "out", settings={"a": 2})
    assert tree(tmp_path / "out") == before
    assert made(tmp_path / "out").resumed == 1


@pytest.mark.parametrize("left", ["nothing", "a shard of four", "everything"])
def test_the_dataset_is_read_once(tmp_path: Path, left: str) -> None:
    """To extract it, or, where the whole tree is there, to know which steps should be."""
    counted: list[int] = []

    class Counting(Episodes):
        def read(self, start: int, stop: int) -> Any:
            counted.append(start)
            return super().read(start, stop)

    if left != "nothing":
        made(tmp_path / "out", selection={})
    if left == "a shard of four":
        sink = job("openvla:mock", stream(Episodes()), tmp_path / "out", layout="steps")[0].sink
        (tmp_path / "out/.unfinished").mkdir()
        (tmp_path / f"out/.unfinished/{sink.identity}-000000.json").write_text('{"samples": 7, "broken": []}')
    extracted("openvla:mock", stream(Counting()), tmp_path / "out", layout="steps")
    assert counted == ([2, 4, 6] if left == "a shard of four" else [0, 2, 4, 6])


def test_unreadable_metadata_is_told(tmp_path: Path) -> None:
    made(tmp_path / "out")
    (tmp_path / "out/e0/step_0000/step_metadata.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedError, match=r"metadata is not readable(.|\n)*step_0000(.|\n)*run again"):
        made(tmp_path / "out")


def test_a_step_that_was_removed_is_made_again(tmp_path: Path) -> None:
    import shutil

    made(tmp_path / "out")
    before = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/e0/step_0001")
    made(tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_points_are_named_in_the_order_of_the_model() -> None:
    assert list(map(str, step_points("lm", [1, 3], ["output", "input"], embedding=True))) == ["lm.embedding", "lm.01.input", "lm.01.output", "lm.03.input", "lm.03.output"]
    assert list(map(str, step_points("lm", [1], ["output"], embedding=False))) == ["lm.01.output"]


# ---------------------------------------------------------------- plots


def test_the_plane_is_that_of_the_largest_variance_whatever_the_signs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 2)) * (5, 2)
    axes = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    shown, share = plots.plane(truth @ axes.T + 3)
    assert share.sum() == pytest.approx(1.0) and share[0] > share[1]
    centred = truth - truth.mean(0)
    np.testing.assert_allclose(shown @ shown.T, centred @ centred.T, atol=1e-9)
    np.testing.assert_allclose(plots.plane(truth @ axes.T)[0], shown, atol=1e-9)


@pytest.mark.parametrize("vectors", [np.zeros((1, 4)), np.ones((3, 4)), np.zeros((0, 4)), np.full((3, 2), np.nan), np.arange(3.0)[:, None]], ids=["one", "equal", "none", "nan", "one wide"])
def test_what_has_no_plane_is_shown_at_the_origin_or_on_a_line(vectors: np.ndarray) -> None:
    shown, share = plots.plane(vectors)
    assert shown.shape == (len(vectors), 2) and np.isfinite(shown).all() and np.isfinite(share).all() and not shown[:, 1].any()


def test_a_plot_is_a_picture_and_the_same_bytes_every_time() -> None:
    from PIL import Image

    rows = {"a": np.eye(3), "b": np.eye(3)[:, ::-1]}
    first, again = plots.step_plot(rows, [0, 1, 2]), plots.step_plot(rows, [0, 1, 2])
    assert first == again and np.asarray(Image.open(io.BytesIO(first)).convert("L")).std() > 5
    run = plots.run_plot({f"layer {index}": np.eye(4) for index in range(5)}, ["x", "x", "y", "y"])
    assert Image.open(io.BytesIO(run)).size[0] > Image.open(io.BytesIO(first)).size[0]


def test_selections_are_part_of_a_stream_s_identity() -> None:
    given = [Selection(), Selection(episodes=1), Selection(steps=1), Selection(plan=frozenset({"a"})), Selection(plan=frozenset()), Selection(skip_blank=True)]
    from dataclasses import replace

    whole = stream(Episodes())
    assert len({replace(whole, selection=selection).selection_digest for selection in given}) == len(given)
