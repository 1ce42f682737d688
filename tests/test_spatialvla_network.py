"""SpatialVLA's network: configuration, strict loading, masks, geometry, and every way a checkpoint can be damaged."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma2ForCausalLM, SiglipVisionModel, ZoeDepthForDepthEstimation

from harness.adapters._spatialvla import SpatialVLA, allowed, windowed
from harness.adapters._spatialvla_config import SpatialVLAConfig
from harness.adapters._spatialvla_weights import build_random, load, load_config, published_shapes, published_to_native
from harness.errors import ContractError, DamagedError, HarnessError, MissingError, UsageError

CHECKPOINT = Path(__file__).resolve().parent.parent / "fixtures/data/spatialvla_tiny/checkpoint"
GIVEN: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
EMBED, HEAD, SPATIAL = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight", "spatial_embed_tokens.weight"


def config(**changes: Any) -> SpatialVLAConfig:
    return SpatialVLAConfig.from_dict(altered(changes), "config.json")


def altered(changes: dict[str, Any]) -> dict[str, Any]:
    """The tiny configuration with fields replaced; `a__b` is field b of part a."""
    given = copy.deepcopy(GIVEN)
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            given[part][field] = value
        else:
            given[part] = value
    return given


@pytest.fixture(scope="module")
def tiny() -> SpatialVLA:
    return load(CHECKPOINT, dtype=torch.float32, device="cpu")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def inputs(model: SpatialVLA, rows: int = 2, words: int = 6) -> dict[str, Tensor]:
    made, sizes = torch.Generator().manual_seed(0), model.config
    patches = torch.full((rows, sizes.patches), sizes.image_token_index)
    ids = torch.cat([patches, torch.randint(3, 140, (rows, words), generator=made)], dim=1)
    side = sizes.vision.image_size
    intrinsic = torch.tensor([[40.0, 0, 30], [0, 50.0, 20], [0, 0, 1]])
    pixels = torch.rand(rows, 3, side, side, generator=made)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "intrinsic": intrinsic}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "paligemma"}, "not a SpatialVLA checkpoint(.|\n)*paligemma"),
        ({"text_config": None}, "field 'text_config' is missing"),
        ({"n_freqs": "8"}, "field 'n_freqs' is missing or malformed"),
        ({"spatial_token_num": True}, "field 'spatial_token_num' is missing or malformed"),
        ({"text_config__model_type": "llama"}, "text_config is of another model(.|\n)*llama(.|\n)*gemma2"),
        ({"vision_zoe_config__model_type": "dpt"}, "vision_zoe_config is of another model"),
        ({"text_config__hidden_size": "wide"}, "a part's configuration is not usable"),
        ({"projection_dim": 2048}, "projection_dim 2048 is not the language width 40"),
        ({"image_token_index": 165}, "image token 165 is outside the vocabulary of 165"),
        ({"spatial_token_num": 15}, "spatial tokens end at 166, the vocabulary at 165"),
        ({"action_token_begin_idx": None}, "no action_token_begin_idx"),
        ({"vision_zoe_config": None}, "no vision_zoe_config"),
        ({"vision_config__image_size": 64}, "patches of 20 do not tile a picture of 64"),
        ({"ego3d_patch_reso": 3}, "ego3d_patch_reso 3 does not divide patch 20"),
        ({"vision_config__image_size": 20}, "a picture of 20 is too small to reflect"),
        ({"vision_zoe_config__backbone_config": {"model_type": "dinov2", "out_features": ["stage1"]}}, "another backbone(.|\n)*dinov2"),
    ],
)
def test_a_bad_configuration_is_named_by_its_field(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(DamagedError, match=match):
        config(**changes)


def test_omitted_fields_mean_upstream_s_defaults() -> None:
    absent = dict.fromkeys(("use_spatial_token", "spatial_token_num", "n_freqs", "ego3d_patch_reso"))
    bare = config(use_vision_zoe=False, eos_token_id=[1, 107], **absent)
    assert (bare.use_spatial_token, bare.spatial_token_num, bare.n_freqs, bare.ego3d_patch_reso, bare.eos_token_id) == (False, 259, 8, 4, 1)
    assert config(text_config={"model_type": "gemma2", "hidden_size": 40, "vocab_size": 165}).text.tie_word_embeddings


def test_saved_switches_and_dtypes_do_not_reach_the_parts() -> None:
    loud = config(text_config__output_hidden_states=True, vision_config__output_attentions=True, text_config__torch_dtype="bfloat16")
    assert not loud.text.output_hidden_states and not loud.vision.output_attentions
    assert SpatialVLA(loud, dtype=torch.float32).language_model.dtype == torch.float32


def test_every_part_is_transformers_own_and_eager(tiny: SpatialVLA) -> None:
    networks = tiny.vision_tower, tiny.vision_zoe_model, tiny.language_model
    parts = dict(zip((SiglipVisionModel, ZoeDepthForDepthEstimation, Gemma2ForCausalLM), networks, strict=True))
    assert all(type(part) is kind for kind, part in parts.items())
    kernels = {module.config._attn_implementation for part in parts.values() for module in part.modules() if hasattr(module, "config")}
    assert kernels == {"eager"}


def _poison(state: dict[str, Tensor]) -> None:
    state["multi_modal_projector.linear.weight"][3, 2] = float("nan")


BEIT = "vision_zoe_model.backbone.encoder.layer.0.attention.attention.query.weight"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop(BEIT), r"(?s)1 tensors missing from the checkpoint.*layer\.0\.attention\.attention\.query\.weight"),
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("vision_zoe_model.")], r"(?s)missing.*in all\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"(?s)1 tensors the network has no place for.*extra"),
        (lambda state: state.update({BEIT.replace("query", "q_proj"): torch.zeros(1)}), "no place for"),
        (lambda state: state.update({SPATIAL: torch.zeros(13, 40)}), r"(?s)of another shape.*spatial_embed_tokens\.weight \(13, 40\)"),
        (_poison, "multi_modal_projector.linear.weight holds NaN"),
    ],
)
def test_a_load_accounts_for_every_tensor(copied: Path, change: Callable[[dict[str, Tensor]], object], match: str) -> None:
    state = load_file(copied / "model.safetensors")
    change(state)
    save_file(state, copied / "model.safetensors")
    with pytest.raises(DamagedError, match=match):
        load(copied, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "kind", "match"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", DamagedError, "git-lfs pointer"),
        ("model.safetensors", None, MissingError, "no weights"),
        ("config.json", None, MissingError, "no config.json"),
        ("config.json", b"{", DamagedError, "config.json is not JSON"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    copied: Path, file: str, content: bytes | None, kind: type[HarnessError], match: str
) -> None:
    if content is None:
        (copied / file).unlink()
    else:
        (copied / file).write_bytes(content)
    with pytest.raises(kind, match=match):
        load(copied, dtype=torch.float32, device="cpu")


def test_spatial_rows_are_written_over_the_tail_of_the_vocabulary() -> None:
    """As upstream's from_pretrained does; the file keeps rows of its own there."""
    stored = load_file(CHECKPOINT / "model.safetensors")
    native = published_to_native(stored, load_config(CHECKPOINT))
    assert torch.equal(native[EMBED][-14:], stored[SPATIAL])
    assert torch.equal(native[EMBED][:-14], stored[EMBED][:-14])
    assert not torch.equal(native[EMBED], stored[EMBED])


def test_a_tied_head_is_not_in_the_file_and_equals_the_vocabulary() -> None:
    tied = config(text_config__tie_word_embeddings=True)
    assert HEAD not in published_shapes(tied) and HEAD in published_shapes(config())
    stored = {name: x for name, x in load_file(CHECKPOINT / "model.safetensors").items() if name != HEAD}
    native = published_to_native(stored, tied)
    assert torch.equal(native[HEAD], native[EMBED])
    model = build_random(tied, seed=0, dtype=torch.float32)
    assert torch.equal(model.language_model.lm_head.weight, model.language_model.model.embed_tokens.weight)


def test_the_tower_may_have_a_pooling_head_that_changes_nothing() -> None:
    with_head, without = (config(vision_config__vision_use_head=use) for use in (True, False))
    extra = set(published_shapes(with_head)) - set(published_shapes(without))
    assert len(extra) == 11 and all(name.startswith("vision_tower.vision_model.head.") for name in extra)
    outputs = [model(**inputs(model)).logits for model in (build_random(one, seed=3, dtype=torch.float32) for one in (with_head, without))]
    torch.testing.assert_close(*outputs)


def test_depth_and_spatial_tokens_are_parts_that_may_be_absent() -> None:
    plain = build_random(config(use_vision_zoe=False, use_spatial_token=False), seed=0, dtype=torch.float32)
    assert not hasattr(plain, "vision_zoe_model") and not hasattr(plain, "spatial_embed_tokens")
    given = inputs(plain)
    output = plain(**given)
    assert output.image.geometry is None and torch.equal(output.image.patch_features, output.image.vision_features)
    given["input_ids"][:, -1] = 160
    torch.testing.assert_close(plain.embed(given["input_ids"])[:, -1], plain.language_model.model.embed_tokens.weight[160].expand(2, -1))


def test_buffers_no_checkpoint_holds_equal_those_of_a_cpu_build(tiny: SpatialVLA) -> None:
    built, got = dict(SpatialVLA(tiny.config, dtype=torch.float32).named_buffers()), dict(tiny.named_buffers())
    assert built.keys() == got.keys() and len(got) == 6
    for name, x in built.items():
        assert torch.equal(got[name], x) and got[name].dtype == x.dtype, name


def test_a_bfloat16_load_rounds_the_weights_and_not_the_rotary_frequencies(tiny: SpatialVLA) -> None:
    half = load(CHECKPOINT, dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.language_model.model.rotary_emb.inv_freq, tiny.language_model.model.rotary_emb.inv_freq)
    with pytest.raises(ContractError, match="rotary frequencies were cast"):
        half.to(torch.bfloat16)(**{name: x.bfloat16() if x.is_floating_point() else x for name, x in inputs(half).items()})


def test_random_networks_repeat_by_seed_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (build_random(config(), seed=seed, dtype=torch.float32).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_prompt_sees_itself_both_ways_and_nobody_sees_padding() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    whole = allowed(mask, 4)
    assert whole.shape == (2, 1, 4, 4)
    assert (whole[0, 0] == torch.tensor([True, True, True, False])).all() and (whole[1, 0] == torch.tensor([False, True, True, True])).all()
    assert allowed(mask, 2)[1, 0].int().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]


def test_a_window_drops_keys_that_far_back_and_none_ahead() -> None:
    seen = windowed(torch.ones(1, 1, 4, 4, dtype=torch.bool), 2)[0, 0].int().tolist()
    assert seen == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]


def test_points_lie_on_the_rays_through_their_pixels(tiny: SpatialVLA) -> None:
    """Projected back by the intrinsic, point (i, j) of patch (r, c) is at its pixel centre; its depth is the given one."""
    intrinsic = inputs(tiny)["intrinsic"]
    xyz = tiny.points(torch.full((1, 1, 60, 60), 2.5), intrinsic).unflatten(-1, (4, 4, 3)).unflatten(1, (3, 3))
    assert torch.allclose(xyz[..., 2], torch.tensor(2.5))
    row, column, i, j = 2, 1, 3, 0
    u, v, w = intrinsic @ xyz[0, row, column, i, j]
    assert (u / w).item() == pytest.approx(20 * column + 5 * j + 2.5, abs=1e-4)
    assert (v / w).item() == pytest.approx(20 * row + 5 * i + 2.5, abs=1e-4)


def test_one_intrinsic_serves_a_batch_as_the_same_one_for_each(tiny: SpatialVLA) -> None:
    given = inputs(tiny)
    each = {**given, "intrinsic": given["intrinsic"].expand(2, 3, 3)}
    assert torch.equal(tiny(**given).logits, tiny(**each).logits)


@pytest.mark.parametrize(
    "change",
    [
        {"pixel_values": torch.zeros(2, 3, 56, 56)},
        {"pixel_values": torch.zeros(1, 3, 60, 60)},
        {"attention_mask": torch.ones(2, 3)},
        {"intrinsic": torch.eye(4)},
    ],
)
def test_inputs_that_do_not_fit_are_refused(tiny: SpatialVLA, change: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match=r"model inputs do not fit(.|\n)*\(b, 3, 60, 60\)"):
        tiny(**{**inputs(tiny), **change})


def test_a_router_of_two_heads_runs_without_values() -> None:
    """The published depth model asks a tensor for its value, which the meta device does not have."""
    zoe = json.loads((CHECKPOINT / "config.json").read_text())["vision_zoe_config"]
    heads = [{"name": name, "n_bins": 6, "min_depth": 0.001, "max_depth": 10.0} for name in ("nyu", "kitti")]
    sizes = {"layers": 4, "hidden_size": 128, "intermediate_size": 8, "num_attention_heads": 2}
    router = {f"num_patch_transformer_{name}" if name == "layers" else f"patch_transformer_{name}": size for name, size in sizes.items()}
    two = config(vision_zoe_config={**zoe, **router, "bin_configurations": heads})
    with torch.device("meta"):
        model = SpatialVLA(two, dtype=torch.float32)
    output = model(**{name: x.to("meta") for name, x in inputs(model).items()})
    assert output.logits.is_meta and output.logits.shape == (2, 15, 165)


def test_a_predicted_image_token_is_a_word_and_no_patch(tiny: SpatialVLA) -> None:
    given = inputs(tiny)
    prompt = given["input_ids"].shape[1]
    image = torch.full((2, 1), tiny.config.image_token_index)
    longer = {**given, "input_ids": torch.cat([given["input_ids"], image], 1), "attention_mask": torch.ones(2, prompt + 1, dtype=torch.long)}
    output = tiny(**longer, prompt=prompt)
    assert torch.equal(output.inputs_embeds[:, :prompt], tiny(**given).inputs_embeds)
    assert torch.equal(output.inputs_embeds[:, prompt:], tiny.embed(image))
