"""The SpatialVLA adapter: prompt, picture, intrinsics, points, depth without batch mates, and action tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from harness import readers, subjects
from harness.adapters._spatialvla_actions import ActionTokens
from harness.adapters._spatialvla_processor import INTRINSICS, camera_intrinsic, preprocess
from harness.adapters.spatialvla import SpatialVLA
from harness.contract.parity import parity
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.types import Point, Runtime, Sample, Weights

ROOT = Path(__file__).resolve().parent.parent
PACK = ROOT / "fixtures/data/spatialvla_tiny"
PACKS = [path for path in (PACK, ROOT.parent / "shared/goldens/spatialvla/a", ROOT.parent / "shared/goldens/spatialvla/b") if path.is_dir()]


def loaded(subject: str, **runtime: Any) -> SpatialVLA:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return subjects.load(subjects.resolve(subject), Runtime(**runtime))  # type: ignore[return-value]


def like(adapter: SpatialVLA, **options: str) -> SpatialVLA:
    """The same network under other options of the card."""
    return SpatialVLA(replace(adapter.subject, options=options), adapter.runtime, adapter.model, adapter.clauses)


@pytest.fixture(scope="module")
def tiny() -> SpatialVLA:
    """The tiny checkpoint: published format, one depth head, window of 7, 14 action tokens."""
    return loaded("spatialvla_tiny:checkpoint")


@pytest.fixture(scope="module")
def mock() -> SpatialVLA:
    """Random weights, two depth heads."""
    return loaded("spatialvla:mock")


@pytest.fixture(scope="module")
def samples() -> Iterator[tuple[Sample, ...]]:
    """Two photographs with instructions of different length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = readers.read("photos").samples
    yield tuple(choose(found, key=lambda sample: len(sample.instruction.split())) for choose in (min, max))


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_tensor_is_upstream_s(pack: Path) -> None:
    adapter = subjects.load(subjects.resolve("spatialvla:checkpoint", checkpoint=pack / "checkpoint"), Runtime())
    assert parity(adapter, pack).value < 0.5
    assert adapter.unlike_checkpoint() == []


def test_a_changed_parameter_is_unlike_the_checkpoint() -> None:
    adapter = loaded("spatialvla_tiny:checkpoint")
    with torch.no_grad():
        adapter.model.spatial_embed_tokens.weight[3, 5] += 1
    assert adapter.unlike_checkpoint() == ["spatial_embed_tokens.weight"]


def test_another_kernel_than_eager_is_refused() -> None:
    with pytest.raises(UsageError, match=r"under sdpa the soft cap of Gemma2's attention would be lost(.|\n)*attention eager"):
        loaded("spatialvla_tiny:checkpoint", attention="sdpa")


@pytest.mark.parametrize("subject", ["spatialvla_tiny:checkpoint", "spatialvla:mock"])
def test_bfloat16_stays_near_float32(subject: str, samples: tuple[Sample, ...]) -> None:
    whole, half = loaded(subject).record(samples), loaded(subject, dtype="bfloat16").record(samples)
    valid = whole.batch.tokens["lm"].mask
    for point in (Point("ego3d", "output"), Point("lm", "final_norm")):
        kept = valid if point.stack == "lm" else slice(None)
        x, y = whole.values[point][kept], half.values[point][kept]
        assert torch.isfinite(y).all() and 0 < (x - y).norm() / x.norm() < 0.1


@pytest.mark.parametrize(
    ("style", "prompt"),
    [
        ("spatialvla", "What action should the robot take to open the top drawer?\n"),
        ("training", "open the top drawer\n"),
        ("raw", "Open the TOP drawer\n"),
    ],
)
def test_the_prompt_is_one_of_upstream_s(tiny: SpatialVLA, samples: tuple[Sample, ...], style: str, prompt: str) -> None:
    asked: list[str] = []

    def tokenizer(text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        asked.append(text)
        assert not add_special_tokens  # BOS comes from the template
        return {"input_ids": [5, 6]}

    adapter = like(tiny, prompt=style)
    adapter.__dict__["tokenizer"] = tokenizer
    batch = adapter.encode([replace(samples[0], instruction="Open the TOP drawer")])
    assert asked == [prompt]
    assert batch.inputs["input_ids"].tolist() == [[150] * 9 + [2, 5, 6]]


def test_an_unknown_prompt_style_names_the_field(tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    with pytest.raises(UnknownNameError, match=r"no prompt style named 'row'; the nearest is 'raw'(.|\n)*options\.prompt"):
        like(tiny, prompt="row").encode(samples)


@pytest.mark.parametrize("subject", ["spatialvla_tiny:checkpoint", "spatialvla:mock"])
def test_spans_cover_the_sequence_and_stand_in_words_are_no_action(
    subject: str, tiny: SpatialVLA, mock: SpatialVLA, samples: tuple[Sample, ...]
) -> None:
    adapter = tiny if subject == tiny.subject.id else mock
    batch, config = adapter.encode(samples), adapter.model.config
    assert set(batch.tokens) == {"vision", "ego3d", "projector", "lm"}
    for tokens in batch.tokens.values():
        assert (sum(span.long() for span in tokens.spans.values()) == 1).all()
        assert torch.equal(tokens.spans["padding"], ~tokens.mask)
    ids, lm = batch.inputs["input_ids"], batch.tokens["lm"]
    assert (ids[lm.spans["image.0"]] == config.image_token_index).all() and (lm.spans["image.0"].sum(1) == config.patches).all()
    assert (ids[lm.spans["text"]] < min(config.image_token_index, config.action_token_begin_idx)).all()
    assert not lm.mask[0, -1] and lm.mask[0, 0]  # padded on the right


def test_upstream_s_own_padding_on_the_left_is_read_right(tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    """Features of valid positions do not depend on the side: rotary positions and windows are relative."""
    right = tiny.encode(samples)
    shift = int((~right.tokens["lm"].mask[0]).sum())
    ids, mask = (right.inputs[name].clone() for name in ("input_ids", "attention_mask"))
    ids[0], mask[0] = ids[0].roll(shift), mask[0].roll(shift)
    left = tiny.batch({**right.inputs, "input_ids": ids, "attention_mask": mask})
    point = Point("lm", "final_norm")
    values = [tiny.capture(batch, [point])[point][batch.tokens["lm"].mask] for batch in (right, left)]
    assert shift > 0
    torch.testing.assert_close(*values, rtol=0, atol=2e-5)


def test_a_prompt_with_too_few_image_tokens_is_refused(tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    inputs = dict(tiny.encode(samples).inputs)
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][1, 0] = 7
    with pytest.raises(UsageError, match=r"number of image tokens(.|\n)*\[9, 8\](.|\n)*9"):
        tiny.batch(inputs)


def test_a_picture_is_resized_and_scaled_but_not_normalised() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (37, 52, 3), np.uint8)
    processor = SiglipImageProcessorPil(size={"height": 56, "width": 56}, resample=3, do_normalize=False)
    upstream = processor(Image.fromarray(picture), return_tensors="np")
    np.testing.assert_allclose(preprocess(picture, 56), upstream["pixel_values"][0], rtol=0, atol=1e-7)
    assert preprocess(np.full((4, 4, 3), 255, np.uint8), 8).max() == 1.0


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_something_else_than_a_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(UsageError, match="not an RGB picture"):
        preprocess(picture, 8)


def test_saved_preprocessing_chooses_the_filter_and_never_the_normalisation(
    tmp_path: Path, tiny: SpatialVLA, samples: tuple[Sample, ...]
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 2, "do_normalize": True}))
    adapter = SpatialVLA(replace(tiny.subject, weights=Weights("directory", "digest", tmp_path)), tiny.runtime, tiny.model, tiny.clauses)
    pixels = adapter.encode(samples).inputs["pixel_values"]
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert not torch.equal(pixels, tiny.encode(samples).inputs["pixel_values"])


def test_the_intrinsic_is_in_pixels_of_the_model_s_picture() -> None:
    expected = [[623.588 * 224 / 640, 0, 319.501 * 224 / 640], [0, 623.588 * 224 / 480, 239.545 * 224 / 480], [0, 0, 1]]
    np.testing.assert_allclose(camera_intrinsic(INTRINSICS, "bridge_orig/1.0.0", 224, "here"), expected, rtol=1e-6)


def test_the_intrinsic_of_the_packs_is_the_default_table_s(tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    torch.testing.assert_close(tiny.encode(samples).inputs["intrinsic"], load_file(PACK / "inputs.safetensors")["intrinsic"])


def test_the_checkpoint_s_own_intrinsics_win(tmp_path: Path, tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    entry = {"intrinsic": [[60, 0, 30], [0, 60, 30], [0, 0, 1]], "height": 60, "width": 60}
    (tmp_path / "processor_config.json").write_text(json.dumps({"intrinsic_config": {"mine": entry}}))
    subject = replace(tiny.subject, weights=Weights("directory", "digest", tmp_path), options={"unnorm_key": "mine"})
    adapter = SpatialVLA(subject, tiny.runtime, tiny.model, tiny.clauses)
    assert adapter.encode(samples).inputs["intrinsic"].tolist() == entry["intrinsic"]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "default"),
        ({"unnorm_key": "default"}, "default"),
        ({"unnorm_key": "x", "intrinsic_key": "bridge_orig/1.0.0"}, "bridge_orig/1.0.0"),
    ],
)
def test_intrinsic_key_comes_before_unnorm_key(tiny: SpatialVLA, samples: tuple[Sample, ...], options: dict[str, str], key: str) -> None:
    batch = like(tiny, **options).encode(samples)
    np.testing.assert_array_equal(batch.inputs["intrinsic"], camera_intrinsic(INTRINSICS, key, 60, ""))


def test_an_unknown_intrinsic_is_an_error_and_no_fallback(tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    match = r"no camera intrinsic named 'fractal'(.|\n)*bridge_orig/1\.0\.0(.|\n)*options\.intrinsic_key"
    with pytest.raises(UnknownNameError, match=match):
        like(tiny, unnorm_key="fractal").encode(samples)


@pytest.mark.parametrize(
    "entry",
    [{}, {"intrinsic": [[1, 0], [0, 1]], "width": 1, "height": 1}, {"intrinsic": np.eye(3).tolist(), "width": 0, "height": 1}],
)
def test_a_malformed_intrinsic_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="camera intrinsic of mine is malformed"):
        camera_intrinsic({"mine": entry}, "mine", 224, "here")


def test_depth_does_not_depend_on_batch_mates(mock: SpatialVLA, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A router made to vote loudly for one head on bright pictures; the control is ZoeDepth on both at once, which does couple."""
    zoe = mock.model.vision_zoe_model
    pixels = torch.stack([torch.full((3, 384, 384), value) for value in (-0.9, 0.9)]) + torch.linspace(0, 0.1, 384)
    seen: list[float] = []
    watch = zoe.backbone.register_forward_pre_hook(lambda module, args: seen.extend(args[0].mean((1, 2, 3)).tolist()))

    def vote(embedding: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0] if brightness < 0 else [0.0, 9.0] for brightness in seen[-len(embedding) :]])

    try:
        monkeypatch.setattr(zoe.metric_head.mlp_classifier, "forward", vote)
        with torch.no_grad():
            alone = torch.cat([zoe(pixel_values=one).predicted_depth for one in pixels.split(1)])
            assert torch.equal(mock.model.depths(pixels), alone)
            coupled = zoe(pixel_values=pixels).predicted_depth
    finally:
        watch.remove()
    assert (coupled[0] - alone[0]).abs().max() > 0.01 * alone[0].abs().max()
    torch.testing.assert_close(coupled[1], alone[1])


def test_a_forward_leaves_no_hook(samples: tuple[Sample, ...]) -> None:
    adapter = loaded("spatialvla:mock")
    before = adapter.state()
    adapter.record(samples)
    assert adapter.state()["hooks"] == before["hooks"]


def test_prompt_states_do_not_see_predicted_tokens(tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    inputs = dict(tiny.encode(samples[:1]).inputs)
    prompt = inputs["input_ids"].shape[1]
    more = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], torch.tensor([[151, 160]])], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(1, 2, dtype=torch.long)], dim=1),
    }
    with torch.no_grad():
        before, after, open_mask = tiny.model(**inputs).logits, tiny.model(**more, prompt=prompt).logits, tiny.model(**more).logits
        one = {**more, "input_ids": more["input_ids"][:, :-1], "attention_mask": more["attention_mask"][:, :-1]}
        shorter = tiny.model(**one, prompt=prompt).logits
    torch.testing.assert_close(after[:, :prompt], before, rtol=0, atol=1e-5)
    torch.testing.assert_close(after[:, prompt], shorter[:, prompt], rtol=0, atol=1e-5)  # nor does a predicted token see later ones
    assert (open_mask[:, :prompt] - before).abs().max() > 1e-2


def test_actions_are_greedy_and_one_sample_at_a_time(tiny: SpatialVLA, samples: tuple[Sample, ...]) -> None:
    found = tiny.predict(tiny.encode(samples[:1]), "toy/1.0.0")
    assert len(found.token_ids) == 6 and found.values.shape == (2, 7)
    assert found.token_ids[0] == int(tiny.forward(tiny.encode(samples[:1]))["logits"][0, -1].argmax())
    np.testing.assert_array_equal(found.values, tiny.act(samples)[0])
    with pytest.raises(UsageError, match=r"one sample at a time(.|\n)*2 samples"):
        tiny.predict(tiny.encode(samples))


def test_prediction_ends_where_upstream_s_generation_ends(
    tiny: SpatialVLA, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny.predict(tiny.encode(samples[:1])).token_ids[0]
    monkeypatch.setattr(tiny.model, "config", replace(tiny.model.config, eos_token_id=first))
    found = tiny.predict(tiny.encode(samples[:1]))
    assert found.token_ids == (first,)
    np.testing.assert_array_equal(found.values, tiny.decode([first, 0, 0, 0, 0, 0]))


def described(pack: Path) -> tuple[dict[str, Any], ActionTokens]:
    golden = json.loads((pack / "actions.json").read_text(encoding="utf-8"))
    return golden, ActionTokens.from_processor(golden, golden["action_token_begin_idx"], pack)


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_tokens_decode_to_upstream_s_actions(pack: Path) -> None:
    golden, tokens = described(pack)
    for case in golden["cases"]:
        np.testing.assert_array_equal(tokens.decode(case["token_ids"], golden["unnorm_key"]), case["actions"])
    moved = [[token + step for step, token in zip((1, 1, 0) * 2, case["token_ids"], strict=True)] for case in golden["cases"]]
    assert all(np.abs(tokens.decode(ids) - case["actions"]).max() > 0.01 for ids, case in zip(moved, golden["cases"], strict=True))


def test_the_checkpoint_s_processor_describes_the_same_tokens(tiny: SpatialVLA) -> None:
    golden, _ = described(PACK)
    for case in golden["cases"]:
        np.testing.assert_array_equal(tiny.decode(case["token_ids"], golden["unnorm_key"]), case["actions"])


def test_a_description_from_elsewhere_serves_only_a_checkpoint_without_its_own(tmp_path: Path, tiny: SpatialVLA) -> None:
    golden, _ = described(PACK)
    case, other = golden["cases"][0], {**golden, "statistics": {"toy/1.0.0": {"action": ONE}}}
    bare = SpatialVLA(replace(tiny.subject, weights=Weights("directory", "digest", tmp_path)), tiny.runtime, tiny.model, tiny.clauses)
    np.testing.assert_array_equal(bare.decode(case["token_ids"], "toy/1.0.0", golden), case["actions"])
    np.testing.assert_array_equal(tiny.decode(case["token_ids"], "toy/1.0.0", other), case["actions"])
    with pytest.raises(MissingError, match=r"does not say what its action tokens mean(.|\n)*processor_config\.json"):
        bare.decode(case["token_ids"])


def test_surplus_tokens_are_not_looked_at_and_lacking_ones_are_zero(tiny: SpatialVLA) -> None:
    ids = [151, 159, 163, 158, 162, 164]
    np.testing.assert_array_equal(tiny.decode([*ids, 151, 159, 164]), tiny.decode(ids))
    np.testing.assert_array_equal(tiny.decode(ids[:3]), tiny.decode([*ids[:3], 0, 0, 0]))


def test_without_edges_bins_are_uniform_and_published_ones_are_8194() -> None:
    abstract = loaded("spatialvla:abstract")
    tokens = ActionTokens.from_processor(abstract.processor, abstract.model.config.action_token_begin_idx, "card")
    assert [len(edges) - 1 for edges in (*tokens.translation, *tokens.rotation)] == [16, 32, 8, 16, 16, 16]
    np.testing.assert_allclose(tokens.translation[1], np.linspace(-np.pi, np.pi, 33))
    with pytest.raises(MissingError, match="no action statistics"):
        tokens.decode([257153, 261249, 265345], None)


ONE = {"q01": [0.0] * 7, "q99": [1.0] * 7}
BINS = {
    "translation": dict.fromkeys(("theta_bins", "phi_bins", "r_bins"), 2),
    "rotation": dict.fromkeys(("roll_bins", "pitch_bins", "yaw_bins"), 2),
    "gripper": 2,
}
PROCESSOR = {"action_config": {"num_bins": BINS, "use_spherical": False}, "statistics": {"one": {"action": ONE}, "two": {"action": ONE}}}


@pytest.mark.parametrize(
    ("key", "kind", "match"), [(None, UsageError, r"which dataset(.|\n)*one, two"), ("tow", UnknownNameError, "nearest is 'two'")]
)
def test_the_dataset_must_be_named_and_known(key: str | None, kind: type[HarnessError], match: str) -> None:
    with pytest.raises(kind, match=match):
        ActionTokens.from_processor(PROCESSOR, 100, "here").decode([100, 108, 116], key)


def test_bins_need_not_be_spherical_and_a_mask_may_be_absent() -> None:
    found = ActionTokens.from_processor(PROCESSOR, 100, "here").decode([100 + 0b111, 108, 117], "one")
    centres = [0.75 * np.pi, 0.5 * np.pi, 0.75 * np.sqrt(3)]  # all beyond 1, where they are cut
    np.testing.assert_allclose(found, [[*(0.5 * (min(centre, 1) + 1) for centre in centres), 0.25, 0.25, 0.25, 1.0]])


@pytest.mark.parametrize(
    ("processor", "begin", "kind", "match"),
    [
        ({}, 100, MissingError, "does not say what its action tokens mean"),
        (PROCESSOR, 0, MissingError, "action_token_begin_idx"),
        ({"action_config": {"num_bins": {"gripper": 2}}}, 100, DamagedError, "malformed(.|\n)*translation"),
        ({**PROCESSOR, "bin_policy": {"translation": {}}}, 100, DamagedError, "malformed(.|\n)*theta_bins"),
        (
            {**PROCESSOR, "bin_policy": {part: dict.fromkeys(BINS[part], [0, 1]) for part in ("translation", "rotation")}},
            100,
            DamagedError,
            r"bin_policy and num_bins disagree(.|\n)*theta_bins, phi_bins",
        ),
    ],
)
def test_a_bad_description_of_action_tokens_is_refused(processor: dict[str, Any], begin: int, kind: type[HarnessError], match: str) -> None:
    with pytest.raises(kind, match=match):
        ActionTokens.from_processor(processor, begin, "here")


def test_the_published_size_has_the_documented_shapes_and_no_weights(samples: tuple[Sample, ...]) -> None:
    abstract = loaded("spatialvla:abstract")
    assert all(parameter.is_meta for parameter in abstract.model.parameters())
    assert 4.0e9 < sum(parameter.numel() for parameter in abstract.model.parameters()) < 4.1e9
    documented = abstract.subject.documented
    assert sum(point.stack == "lm" and point.stream == "output" for point in abstract.clauses) == documented["layers"] == 26
    batch = abstract.encode(samples)
    captured = abstract.capture(batch, ["vision.final_norm", "ego3d.input", "projector.output", "lm.25.output", "lm.final_norm"])
    length = batch.tokens["lm"].mask.shape[1]
    assert {str(point): tuple(values.shape) for point, values in captured.items()} == {
        "vision.final_norm": (2, 256, 1152),
        "ego3d.input": (2, 256, 12),
        "projector.output": (2, documented["patches"], documented["width"]),
        "lm.25.output": (2, length, documented["width"]),
        "lm.final_norm": (2, length, documented["width"]),
    }


@pytest.mark.parametrize("vocabulary", ["published", "tiny"])
def test_only_a_tiny_vocabulary_may_do_without_its_tokenizer(
    tmp_path: Path, tiny: SpatialVLA, samples: tuple[Sample, ...], vocabulary: str
) -> None:
    base = loaded("spatialvla:abstract") if vocabulary == "published" else tiny
    adapter = SpatialVLA(replace(base.subject, weights=Weights("directory", "digest", tmp_path)), base.runtime, base.model, base.clauses)
    if vocabulary == "tiny":
        assert adapter.tokenizer is None
    else:
        with pytest.raises(MissingError, match=r"the checkpoint has no tokenizer(.|\n)*tokenizer\.json(.|\n)*published repository"):
            adapter.encode(samples)


def test_the_anatomy_names_and_parts_every_tensor_of_the_checkpoint() -> None:
    anatomy = SpatialVLA.anatomy(PACK / "checkpoint")
    with safe_open(PACK / "checkpoint/model.safetensors", framework="pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    assert anatomy.shapes == stored
    found = {name: [part for part, pattern in anatomy.parts.items() if re.match(pattern, name)] for name in stored}
    assert all(len(parts) == 1 for parts in found.values()) and {parts[0] for parts in found.values()} == set(anatomy.parts)
