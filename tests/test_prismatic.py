"""OpenVLA's network against upstream's own tensors (parity packs), and every way a checkpoint can be damaged."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.adapters._prismatic import Prismatic, PrismaticConfig, attention_allowed
from harness.adapters._prismatic_image import default_preprocessor, preprocess
from harness.adapters._prismatic_weights import build_random, load, load_config, published_to_native
from harness.errors import ContractError, DamagedError, HarnessError, MissingError, UnknownNameError, UsageError

ROOT = Path(__file__).resolve().parent.parent
PACKS = next((path for path in (ROOT / "tests/data/openvla", ROOT.parent / "shared/goldens/openvla") if path.is_dir()), None)
CASES = ("a", "b")
TINY: dict[str, Any] = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "image_sizes": [28, 28],
    "timm_model_overrides": [{"embed_dim": 16, "depth": 3, "num_heads": 2}, {"embed_dim": 24, "depth": 2, "num_heads": 2}],
    "text_config": dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=128, pad_token_id=100),
}
SINGLE = {**TINY, "vision_backbone_id": "siglip-vit-so400m", "image_sizes": [28], "timm_model_overrides": TINY["timm_model_overrides"][1:]}
PUBLISHED = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "text_config": {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064},
}


@pytest.fixture(params=CASES)
def pack(request: pytest.FixtureRequest) -> Path:
    if PACKS is None or not (PACKS / request.param / "pack.json").is_file():
        pytest.skip("no parity pack: put the openvla packs in tests/data/openvla or ../shared/goldens/openvla of the repository")
    return PACKS / request.param


@pytest.fixture
def copied(pack: Path, tmp_path: Path) -> Path:
    """A writable copy of a pack's checkpoint."""
    target = tmp_path / "checkpoint"
    target.mkdir()
    for file in (pack / "checkpoint").iterdir():
        shutil.copyfile(file, target / file.name)
    return target


def loaded(directory: Path, *, dtype: torch.dtype = torch.float32, attention: str = "eager") -> Prismatic:
    return load(directory, dtype=dtype, device="cpu", attention=attention)


def tiny(config: dict[str, Any] = TINY, seed: int = 0) -> Prismatic:
    return build_random(PrismaticConfig.from_dict(config, "tiny"), seed=seed, dtype=torch.float32, attention="eager")


def inputs(module: Prismatic, batch: int = 2, tokens: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    side, vocabulary = module.config.towers[0].image_size, module.config.text.vocab_size
    ids = torch.randint(vocabulary, (batch, tokens), generator=draw)
    return ids, torch.ones_like(ids), torch.randn(batch, 3 * len(module.vision), side, side, generator=draw)


def hooked(module: Prismatic, *arguments: Tensor) -> dict[str, Tensor]:
    """Every tensor a pack holds, captured with plain forward hooks."""
    seen: dict[str, Tensor] = {}
    language = module.language_model.model

    def before(i: int) -> Callable[..., None]:
        def hook(_: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            seen[f"layer.{i}.input"] = (args[0] if args else kwargs["hidden_states"]).clone()
            seen["attention_allowed"] = kwargs["attention_mask"] == 0

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: object, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[f"{name}.output"] = output.clone()
            if name == "final_norm":
                seen["final_norm.input"] = args[0].clone()

        return hook

    for i, block in enumerate(language.layers):
        block.register_forward_pre_hook(before(i), with_kwargs=True)
        block.register_forward_hook(after(f"layer.{i}"))
    language.norm.register_forward_hook(after("final_norm"))
    return {**seen, **module(*arguments)._asdict(), **seen}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_tensor_is_upstreams_within_the_packs_tolerance(pack: Path, attention: str) -> None:
    rules = json.loads((pack / "pack.json").read_text())
    given, expected = load_file(pack / "inputs.safetensors"), load_file(pack / "expected.safetensors")
    got = hooked(loaded(pack / "checkpoint", attention=attention), given["input_ids"], given["attention_mask"], given["pixel_values"])
    real = expected[rules["compare_on"]].bool()
    for name, wanted in expected.items():
        atol, rtol = next((atol, rtol) for pattern, atol, rtol in rules["tolerance"] if fnmatch(name, pattern))
        assert got[name].shape == wanted.shape and got[name].dtype == wanted.dtype, name
        keep = real if wanted.shape[:2] == real.shape else torch.ones(wanted.shape[:1], dtype=torch.bool)
        torch.testing.assert_close(got[name][keep], wanted[keep], atol=atol, rtol=rtol, msg=lambda text, name=name: f"{name}: {text}")


def test_images_become_the_pixels_upstream_made_of_them(pack: Path) -> None:
    given = load_file(pack / "inputs.safetensors")
    saved = json.loads((pack / "checkpoint/preprocessor_config.json").read_text())
    for i, pixels in enumerate(given["pixel_values"].numpy()):
        np.testing.assert_allclose(preprocess(given[f"image.{i}"].numpy(), saved), pixels, rtol=0, atol=1e-6)


def test_the_tanh_form_of_gelu_would_be_noticed(pack: Path) -> None:
    given, expected = load_file(pack / "inputs.safetensors"), load_file(pack / "expected.safetensors")
    module = loaded(pack / "checkpoint")
    for block in module.vision["fused_featurizer"].blocks:
        block.mlp.activation_fn = torch.nn.GELU(approximate="tanh")
    got = module(given["input_ids"], given["attention_mask"], given["pixel_values"])
    assert (got.patch_features - expected["patch_features"]).abs().max() > 1e-4


def test_a_sharded_copy_loads_identically(copied: Path) -> None:
    whole = loaded(copied).state_dict()
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(state)}
    for file in set(files.values()):
        save_file({name: state[name] for name in state if files[name] == file}, copied / file)
    (copied / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    sharded = loaded(copied).state_dict()
    assert sharded.keys() == whole.keys() and all(torch.equal(sharded[name], whole[name]) for name in whole)

    (copied / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedError, match="shards are missing"):
        loaded(copied)
    (copied / "model.safetensors.index.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedError, match="index.json is not JSON"):
        loaded(copied)
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../x.safetensors"}}))
    with pytest.raises(DamagedError, match="no usable weight_map"):
        loaded(copied)
    (copied / "model.safetensors.index.json").unlink()
    with pytest.raises(MissingError, match="shards but no index"):
        loaded(copied)


def _poison(state: dict[str, Tensor]) -> None:
    state["projector.fc1.weight"][3, 2] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("projector.fc2.bias"), r"(?s)1 tensors missing from the checkpoint.*projector\.fc2\.bias"),
        (lambda state: [state.pop(name) for name in list(state) if ".blocks.0." in name], r"(?s)26 tensors missing.*\(26 in all\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"(?s)1 tensors the network has no place for.*extra"),
        (lambda state: state.update({"projector.fc1.bias": torch.zeros(3)}), r"(?s)1 tensors of another shape.*fc1\.bias \(3,\)"),
        (lambda state: state.update({"projector.fc1.bias": torch.zeros(3, dtype=torch.int8)}), "fc1.bias holds NaN, infinity or no floating"),
        (_poison, "projector.fc1.weight holds NaN"),
    ],
)
def test_a_load_accounts_for_every_tensor(copied: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    state = load_file(copied / "model.safetensors")
    change(state)
    save_file(state, copied / "model.safetensors")
    with pytest.raises(DamagedError, match=message):
        loaded(copied)


def test_the_unused_pooling_head_may_be_there_or_not(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    before = published_to_native(state, load_config(copied))
    without = {name: x for name, x in state.items() if ".attn_pool." not in name}
    assert len(without) < len(state) and published_to_native(without, load_config(copied)).keys() == before.keys()


@pytest.mark.parametrize(
    ("file", "content", "kind", "message"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", DamagedError, "git-lfs pointer"),
        ("model.safetensors", None, MissingError, "no weights"),
        ("config.json", None, MissingError, "no config.json"),
        ("config.json", b"version https://git-lfs.github.com/spec/v1\n", DamagedError, "config.json is not JSON"),
        ("config.json", b"[]", DamagedError, "no JSON object"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(copied: Path, file: str, content: bytes | None, kind: type[HarnessError], message: str) -> None:
    if content is None:
        (copied / file).unlink()
    else:
        (copied / file).write_bytes(content)
    with pytest.raises(kind, match=message):
        loaded(copied)


def test_a_truncated_file_is_refused(copied: Path) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match="truncated"):
        loaded(copied)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model_type": "llava"}, DamagedError, "not an OpenVLA checkpoint"),
        ({"model_type": None}, DamagedError, "field 'model_type'"),
        ({"text_config": None}, DamagedError, "field 'text_config'"),
        ({"text_config": {"hidden_size": "wide"}}, DamagedError, "no Llama configuration"),
        ({"text_config": {"model_type": "phi"}}, UnknownNameError, "text_config.model_type"),
        ({"vision_backbone_id": "dinosiglip-vit-so-224"}, UnknownNameError, "nearest is 'dinosiglip-vit-so-224px'"),
        ({"timm_model_ids": ["vit_so400m_patch14_siglip_225"] * 2}, UnknownNameError, "nearest is 'vit_so400m_patch14_siglip_224'"),
        ({"timm_model_overrides": [{"width": 3}, {}]}, UnknownNameError, "no timm_model_overrides named 'width'"),
        ({"timm_model_overrides": [{"depth": "3"}, {}]}, DamagedError, "field 'depth'"),
        ({"timm_model_overrides": [{"depth": 1}, {}]}, DamagedError, "impossible vision tower"),
        ({"timm_model_overrides": [{"num_heads": 0}, {}]}, DamagedError, "impossible vision tower"),
        ({"image_sizes": [28, 42]}, DamagedError, "vision towers disagree"),
        ({"image_sizes": [28]}, DamagedError, "vision towers disagree"),
        ({"timm_override_act_layers": [None, "quick_gelu"]}, DamagedError, "vision towers disagree"),
        ({"arch_specifier": "no-align+mlp"}, UnknownNameError, "no arch_specifier"),
        ({"pad_token_id": True}, DamagedError, "field 'pad_token_id'"),
        ({"n_action_bins": "256"}, DamagedError, "field 'n_action_bins'"),
    ],
)
def test_a_bad_configuration_is_named_by_its_field(changes: dict[str, Any], kind: type[HarnessError], message: str) -> None:
    with pytest.raises(kind, match=message):
        PrismaticConfig.from_dict({**TINY, **changes}, "config.json")


def test_omitted_fields_mean_upstreams_defaults() -> None:
    config = PrismaticConfig.from_dict(PUBLISHED, "config.json")
    assert (config.n_action_bins, config.pad_to_multiple_of, config.pad_token_id, config.llm_max_length) == (256, 64, 32000, 2048)
    assert config.text.rms_norm_eps == 1e-6 and config.text.rope_parameters["rope_theta"] == 10000.0
    assert config.vision_width == 2176 and [tower.patches for tower in config.towers] == [256, 256]


def test_the_published_size_has_the_documented_shapes_without_weights() -> None:
    start = time.perf_counter()
    with torch.device("meta"):
        module = Prismatic(PrismaticConfig.from_dict(PUBLISHED, "config.json"), attention="eager", dtype=torch.bfloat16)
        ids = torch.zeros(1, 20, dtype=torch.int64)
    got = hooked(module, ids, torch.ones_like(ids), torch.zeros(1, 6, 224, 224, device="meta"))
    assert time.perf_counter() - start < 20
    assert len(module.language_model.model.layers) == 32 and [len(t.blocks) for t in module.vision.values()] == [24, 27]
    assert got["patch_features"].shape == (1, 256, 2176) and got["projected_patches"].shape == (1, 256, 4096)
    assert all(got[f"layer.{i}.output"].shape == (1, 256 + 20, 4096) for i in range(32))
    assert got["logits"].shape == (1, 276, 32064) and got["logits"].is_meta
    assert module.projector.fc1.out_features == 8704 and module.vision["fused_featurizer"].blocks[0].mlp.fc1.out_features == 4304


def test_the_size_of_384_pixels_has_27_patches_a_side() -> None:
    config = PrismaticConfig.from_dict({**PUBLISHED, "vision_backbone_id": "dinosiglip-vit-so-384px"}, "config.json")
    with torch.device("meta"):
        module = Prismatic(config, attention="sdpa", dtype=torch.bfloat16)
        assert module.vision["featurizer"](torch.zeros(1, 3, 384, 384)).shape == (1, 729, 1024)
        assert module.vision["fused_featurizer"](torch.zeros(1, 3, 384, 384)).shape == (1, 729, 1152)


@pytest.mark.parametrize(
    ("changes", "layers"), [({}, ["fc1", "act_fn1", "fc2"]), ({"arch_specifier": "linear"}, ["fc1"]), ({"vision_backbone_id": "dinov2-vit-l"}, ["fc1", "act_fn1", "fc2"])]
)
def test_one_tower_goes_through_the_shorter_projector(changes: dict[str, Any], layers: list[str]) -> None:
    module = tiny({**SINGLE, **changes})
    assert [name for name, _ in module.projector.named_children()] == layers and list(module.vision) == ["featurizer"]
    got = module(*inputs(module))
    assert got.patch_features.shape == (2, 4, 24) and got.logits is not None and bool(got.logits.isfinite().all())


def test_buffers_no_checkpoint_holds_equal_those_of_a_cpu_build() -> None:
    config = PrismaticConfig.from_dict({**TINY, "text_config": {**TINY["text_config"], "rope_theta": 5000.0}}, "tiny")
    for dtype in (torch.float32, torch.bfloat16):
        rebuilt = dict(build_random(config, seed=0, dtype=dtype, attention="eager").named_buffers())
        direct = dict(Prismatic(config, attention="eager", dtype=dtype).named_buffers())
        assert rebuilt.keys() == direct.keys() and len(direct) == 3
        assert all(torch.equal(rebuilt[name], x) and rebuilt[name].dtype == x.dtype for name, x in direct.items())


def test_a_bfloat16_load_rounds_the_weights_and_not_the_rotary_frequencies(pack: Path) -> None:
    module = loaded(pack / "checkpoint", dtype=torch.bfloat16)
    assert {x.dtype for x in module.parameters()} == {torch.bfloat16}
    assert torch.equal(module.language_model.model.rotary_emb.inv_freq, loaded(pack / "checkpoint").language_model.model.rotary_emb.inv_freq)
    with pytest.raises(ContractError, match="rotary frequencies were cast"):
        module.to(torch.bfloat16)(*inputs(module))


def test_a_forward_leaves_no_hooks_and_skips_only_the_last_vision_block() -> None:
    module = tiny()
    ran: list[str] = []
    for name, tower in module.vision.items():
        for i, block in enumerate(tower.blocks):
            block.register_forward_hook(lambda *_, at=f"{name}.{i}": ran.append(at))
    module(*inputs(module))
    assert ran == ["featurizer.0", "featurizer.1", "fused_featurizer.0"]
    assert not any(part._forward_hooks for part in module.language_model.modules())


def test_logits_can_be_left_out() -> None:
    module = tiny()
    assert module(*inputs(module), with_logits=False).logits is None


def test_random_networks_repeat_by_seed_and_leave_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    given = inputs(one)
    assert torch.equal(one(*given).logits, same(*given).logits) and not torch.equal(one(*given).logits, other(*given).logits)


def test_every_weight_of_a_random_network_matters_but_for_those_upstream_never_uses() -> None:
    module = tiny(seed=1)
    given = inputs(module)
    reference = module(*given).logits
    assert 0.1 < reference.std() < 10
    unused = [f".{name}." for name in ("mask_token", "layernorm", "post_layernorm", "k_proj.bias")]  # softmax cancels a key bias
    unused += [f".{name}.model.encoder.{layers}.{len(tower.blocks) - 1}." for name, tower in module.vision.items() for layers in ("layer", "layers")]
    moved = {}
    for name, weight in module.named_parameters():
        kept = weight.clone()
        weight.mul_(1.5)
        moved[name] = (module(*given).logits - reference).abs().max().item()
        weight.copy_(kept)
    idle = {name for name in moved if any(part in f".{name}." for part in unused)}
    assert all(moved[name] < 1e-5 for name in idle) and all(moved[name] > 1e-4 for name in moved.keys() - idle)


def test_the_mask_is_causal_and_hides_padding() -> None:
    got = attention_allowed(torch.tensor([[1, 1, 0]]))
    assert got.tolist() == [[[[True, False, False], [True, True, False], [True, True, False]]]]


def test_inputs_that_do_not_fit_are_refused() -> None:
    module = tiny()
    ids, mask, pixels = inputs(module)
    for wrong in ((ids, mask[:, :-1], pixels), (ids, mask, pixels[:, :3]), (ids, mask, pixels[..., :-1]), (ids[:1], mask[:1], pixels)):
        with pytest.raises(UsageError, match="model inputs do not fit"):
            module(*wrong)
    with pytest.raises(UnknownNameError, match="attention kernel"):
        build_random(module.config, seed=0, dtype=torch.float32, attention="flash")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((3, 8, 9), np.uint8), "channels come first"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        ([[0]], "list"),
    ],
)
def test_something_else_than_a_picture_is_refused(image: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        preprocess(image, default_preprocessor(PrismaticConfig.from_dict(TINY, "tiny")))


@pytest.mark.parametrize("strategy", ["resize-naive", "letterbox", "resize-crop"])
@pytest.mark.parametrize("shape", [(40, 61, 3), (61, 40, 3), (28, 28, 3), (5, 9, 3)])
def test_each_strategy_gives_the_towers_size(strategy: str, shape: tuple[int, ...]) -> None:
    saved = default_preprocessor(PrismaticConfig.from_dict({**TINY, "image_resize_strategy": strategy}, "tiny"))
    got = preprocess(np.full(shape, 255, np.uint8), json.loads(json.dumps(saved)))
    assert got.shape == (6, 28, 28) and got.dtype == np.float32
    np.testing.assert_allclose(got[:3, 14, 14], [(1 - 0.484375) / 0.228515625, (1 - 0.455078125) / 0.2236328125, (1 - 0.40625) / 0.224609375], rtol=1e-6)


def test_the_default_preprocessing_is_the_saved_one_but_for_the_rounding(pack: Path) -> None:
    saved = json.loads((pack / "checkpoint/preprocessor_config.json").read_text())
    made = default_preprocessor(load_config(pack / "checkpoint"))
    assert all(made[name] == saved[name] for name in ("tvf_do_letterbox", "tvf_letterbox_fill", "tvf_crop_params"))
    assert [row["size"] for row in made["tvf_resize_params"]] == [row["size"] for row in saved["tvf_resize_params"]]
    for mine, theirs in zip(made["tvf_normalize_params"], saved["tvf_normalize_params"], strict=True):
        for name in ("mean", "std"):
            assert mine[name] == torch.tensor(theirs[name]).bfloat16().tolist()


def test_incomplete_preprocessing_is_refused() -> None:
    saved = default_preprocessor(PrismaticConfig.from_dict(TINY, "tiny"))
    with pytest.raises(DamagedError, match="incomplete"):
        preprocess(np.zeros((8, 8, 3), np.uint8), {**saved, "tvf_crop_params": []})
    with pytest.raises(DamagedError, match="unusable"):
        preprocess(np.zeros((8, 8, 3), np.uint8), {**saved, "tvf_normalize_params": [{}, {}]})
    with pytest.raises(UnknownNameError, match="nearest is 'letterbox'"):
        default_preprocessor(PrismaticConfig.from_dict({**TINY, "image_resize_strategy": "letterboxes"}, "tiny"))
