"""The lerobot π0 adapter: sequence, cameras, pictures, statistics, the queue of actions, and a loader of both ages that takes no damage."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from harness import inspection, readers, subjects
from harness.adapters._lerobot_image import prepare
from harness.adapters._lerobot_inputs import clock
from harness.adapters._lerobot_norm import ScaledRMSNorm
from harness.adapters._lerobot_prompt import prompt_ids
from harness.adapters.lerobot_pi0 import LerobotPI0
from harness.contract.loaded import loaded as unlike
from harness.contract.parity import parity
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.layouts.pi0 import old_name
from harness.types import Point, Runtime, Sample

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ROOT.parent / "shared/goldens/lerobot_pi0"
PALIGEMMA = "model.paligemma_with_expert.paligemma."
TOKENS, TOKEN_MASK, STATE = "observation.language.tokens", "observation.language.attention_mask", "observation.state"
State = dict[str, Tensor]


@lru_cache
def loaded(subject: str = "lerobot_pi0:mock", runtime: Runtime = Runtime()) -> LerobotPI0:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return subjects.load(subjects.resolve(subject), runtime)  # type: ignore[return-value]


def pack_adapter(pack: Path, runtime: Runtime = Runtime(), **options: object) -> LerobotPI0:
    subject = subjects.resolve("lerobot_pi0:checkpoint", checkpoint=pack / "checkpoint")
    return subjects.load(replace(subject, options={**subject.options, **options}), runtime)  # type: ignore[return-value]


def inputs(case: str) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in np.load(GOLDENS / case / "inputs.npz").items()}


@pytest.fixture
def pack(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A writable copy of a pack: today's layout, or the one that the test's parameter names."""
    case = getattr(request, "param", "a")
    if not (GOLDENS / case).is_dir():
        pytest.skip(f"pack {case} is not on this machine")
    return Path(shutil.copytree(GOLDENS / case, tmp_path / case, copy_function=shutil.copyfile))


OLD = pytest.mark.parametrize("pack", ["b_old"], indirect=True)
BOTH = pytest.mark.parametrize("pack", ["a", "b_old"], indirect=True)


def edit(pack: Path, change: Callable[[State, dict[str, Any]], object]) -> Path:
    """The pack with other tensors or another configuration, both given to `change` to be altered in place."""
    file, settings = pack / "checkpoint/model.safetensors", pack / "checkpoint/config.json"
    state, config = {name: tensor.clone() for name, tensor in load_file(file).items()}, json.loads(settings.read_text())
    change(state, config)
    save_file(state, file)
    settings.write_text(json.dumps(config))
    return pack


@pytest.fixture(scope="module")
def samples() -> tuple[Sample, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        photos = readers.read("photos").samples
    states = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    return tuple(
        replace(one, images={"primary": one.images["primary"], "wrist": other.images["primary"]}, state=state)
        for one, other, state in zip(photos[:3], photos[3:6], states, strict=True)
    )


def short(sample: Sample, width: int = 8) -> Sample:
    """A sample that fits the packs: few words, eight numbers of state."""
    return replace(sample, instruction="open the drawer", state=np.resize(sample.state, width))


# ---------------------------------------------------------------- the network


@BOTH
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kernels_agree_with_upstream_and_give_no_nan_for_rows_that_see_nothing(pack: Path, attention: str) -> None:
    adapter = pack_adapter(pack, Runtime(attention=attention))  # type: ignore[arg-type]
    assert parity(adapter, pack).value < 0.5
    batch = adapter.batch(dict(np.load(pack / "inputs.npz")))
    assert not adapter.forward(batch)["prefix.attn_mask"].any(2).all()
    assert all(bool(value.isfinite().all()) for value in adapter.capture(batch, adapter.clauses).values())


@OLD
def test_bfloat16_is_as_far_from_upstreams_bfloat16_as_rounding_is(pack: Path) -> None:
    expected, named = np.load(pack / "expected_bf16.npz"), pack_adapter(pack, Runtime(dtype="bfloat16")).upstream(dict(np.load(pack / "inputs.npz")))
    valid = expected["prefix.pad_mask"]
    assert np.abs(named["expert0.final_norm.output"].float().numpy() - expected["expert0.final_norm.output"])[valid].max() < 0.3
    assert np.abs(named["actions"].numpy() - expected["actions"]).max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_with_visible_scale_is_bitwise_gemmas(dtype: torch.dtype) -> None:
    own, theirs = ScaledRMSNorm(48, 1e-6).to(dtype), GemmaRMSNorm(48, 1e-6).to(dtype)
    own.weight.data = theirs.weight.data = torch.randn(48).to(dtype)
    x = 3 * torch.randn(2, 5, 48).to(dtype)
    assert torch.equal(own(x), theirs(x))


def test_scales_are_one_over_the_root_mean_square_of_each_token(samples: tuple[Sample, ...]) -> None:
    adapter = loaded()
    for stack, step in (("lm", None), ("expert", 2)):
        points = {stream: Point(stack, stream, 1, step) for stream in ("input", "pre_attn_scale", "post_attn", "pre_mlp_scale")}
        values = adapter.capture(adapter.encode(samples), points.values())
        for stream, scale in (("input", "pre_attn_scale"), ("post_attn", "pre_mlp_scale")):
            want = (values[points[stream]].double().pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
            torch.testing.assert_close(values[points[scale]].double(), want, rtol=1e-5, atol=0)


def test_the_prefill_knows_nothing_of_state_and_noise_and_the_state_token_nothing_of_the_time(samples: tuple[Sample, ...]) -> None:
    adapter = loaded()
    batch = adapter.encode(samples)
    prefix, actions = Point("lm", "final_norm"), Point("expert", "final_norm", step=0)
    others = [Point("expert", "output", 2, step) for step in range(3)]
    one = adapter.capture(batch, [prefix, actions, *others])
    other = adapter.capture(batch.with_inputs(state=batch.inputs["state"] + 1, noise=-batch.inputs["noise"]), [prefix, actions])
    assert torch.equal(one[prefix], other[prefix]) and not torch.equal(one[actions], other[actions])
    assert torch.equal(one[others[0]][:, 0], one[others[2]][:, 0]) and not torch.equal(one[others[0]][:, 1:], one[others[2]][:, 1:])


def test_a_row_of_a_batch_is_the_row_alone(samples: tuple[Sample, ...]) -> None:
    adapter = loaded()
    together, alone = adapter.forward(adapter.encode(samples)), adapter.forward(adapter.encode(samples[1:2]))
    torch.testing.assert_close(together["actions"][1:2], alone["actions"], rtol=1e-4, atol=1e-4)


def test_noise_comes_from_the_cards_seed_alone_and_is_every_samples(samples: tuple[Sample, ...]) -> None:
    adapter, before = loaded(), (torch.get_rng_state(), np.random.get_state()[1].tolist())
    noise = adapter.encode(samples).inputs["noise"]
    assert torch.equal(noise[0], noise[2]) and noise.shape == (3, 6, 9)
    subject = replace(adapter.subject, options={**adapter.subject.options, "noise_seed": 1})
    assert not torch.equal(subjects.load(subject, Runtime()).encode(samples).inputs["noise"], noise)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_another_number_of_steps_gives_points_of_its_own() -> None:
    adapter = pack_adapter(GOLDENS / "a") if (GOLDENS / "a").is_dir() else pytest.skip("pack a is not on this machine")
    named = adapter.upstream({**inputs("a"), "num_steps": torch.tensor(5)})
    assert {f"expert1.t{step}.final_norm.output" for step in range(5)} <= named.keys()
    assert float(named["expert1.t4.time"]) == pytest.approx(0.2)


def test_the_old_clock_adds_up_its_rounding() -> None:
    assert clock(3, old=True)[1:].tolist() == [np.float32(0.6666666), np.float32(0.33333328)]
    assert clock(3, old=False)[1:].tolist() == [np.float32(0.6666667), np.float32(0.33333334)]


# ---------------------------------------------------------------- the sequence


def test_an_absent_cameras_tokens_are_padding_amid_the_sequence(samples: tuple[Sample, ...]) -> None:
    adapter = loaded()
    tokens = adapter.encode(samples).tokens
    assert set(tokens) == {"vision", "projector", "lm", "expert"}
    lm = tokens["lm"]
    assert list(lm.spans) == ["image.0", "image.1", "text", "padding"]
    starts = {name: int(span[0].int().argmax()) for name, span in lm.spans.items()}
    assert starts == {"image.0": 0, "image.1": 4, "text": 12, "padding": 8}
    assert not lm.mask[:, 8:12].any() and lm.mask[0, 12:].sum() > 1
    assert tokens["expert"].spans["state"][0].tolist() == [True] + [False] * 6
    for stack in tokens.values():
        assert torch.equal(sum(span.int() for span in stack.spans.values()), torch.ones_like(stack.mask, dtype=torch.int))


def test_cameras_that_are_there_come_first_whatever_their_slot() -> None:
    adapter, given = (pack_adapter(GOLDENS / "a"), inputs("a")) if (GOLDENS / "a").is_dir() else pytest.skip("pack a is not on this machine")
    named = adapter.upstream({name: value for name, value in given.items() if name != "observation.images.image_0"})
    assert torch.equal(named["preprocessed.image.0"], given["observation.images.image_1"] * 2 - 1)
    assert [bool(named[f"preprocessed.image_mask.{index}"].all()) for index in range(3)] == [True, False, False]


@OLD
@pytest.mark.parametrize(("empty", "given", "shown"), [(0, 1, [True]), (0, 2, [True, True]), (1, 1, [True, False]), (1, 2, [True, True, False]), (2, 2, [True, True, False, False])])
def test_the_old_layout_adds_absent_cameras_up_to_empty_cameras(pack: Path, empty: int, given: int, shown: list[bool]) -> None:
    adapter = pack_adapter(edit(pack, lambda state, config: config.update(empty_cameras=empty)))
    batch = adapter.batch({name: value for name, value in inputs("b_old").items() if name != "observation.images.image_1" or given == 2})
    assert batch.inputs["image_mask"][0].tolist() == shown
    values = adapter.capture(batch, ["vision.final_norm", "lm.embedding"])
    assert values[Point("vision", "final_norm")].shape == (2, 4 * len(shown), 24) and values[Point("lm", "embedding")].shape[1] == 4 * len(shown) + 10


@OLD
def test_the_old_horizon_is_the_number_of_queued_actions(pack: Path) -> None:
    """upstream's old code never reads chunk_size at inference."""
    adapter = pack_adapter(edit(pack, lambda state, config: config.update(n_action_steps=3)))
    assert adapter.forward(adapter.batch({name: value for name, value in inputs("b_old").items() if name != "noise"}))["actions"].shape == (2, 3, 10)


def test_a_samples_own_camera_names_win_where_they_are_the_checkpoints(samples: tuple[Sample, ...]) -> None:
    adapter, (one, two) = loaded(), samples[0].images.values()
    own = replace(samples[0], images={"left_wrist_0_rgb": two, "base_0_rgb": one})
    prefixed = replace(samples[0], images={"observation.images.base_0_rgb": one, "observation.images.left_wrist_0_rgb": two})
    three = replace(own, images={**own.images, "right_wrist_0_rgb": one})
    want = adapter.encode(samples[:1]).inputs["pixel_values"]
    assert all(torch.equal(adapter.encode([sample]).inputs["pixel_values"], want) for sample in (own, prefixed))
    batch = adapter.encode([three])
    assert batch.inputs["image_mask"].all() and "image.2" in batch.tokens["lm"].spans
    assert adapter.capture(batch, ["vision.embedding"])[Point("vision", "embedding")].shape == (1, 12, 40)


# ---------------------------------------------------------------- pictures and words


@pytest.mark.parametrize(
    ("size", "old", "black"),
    [((20, 28), True, (8, 0, 0, 0)), ((20, 28), False, (4, 4, 0, 0)), ((21, 28), False, (3, 4, 0, 0)), ((28, 14), True, (0, 0, 14, 0)), ((28, 13), False, (0, 0, 7, 8)), ((56, 42), False, (0, 0, 3, 4)), ((56, 42), True, (0, 0, 7, 0))],
)
def test_black_bars_stand_where_each_age_puts_them(size: tuple[int, int], old: bool, black: tuple[int, int, int, int]) -> None:
    found = prepare(torch.ones(1, 3, *size), side=28, old=old)[0, 0] == 1
    rows, columns = found.any(1).nonzero()[:, 0], found.any(0).nonzero()[:, 0]
    assert (int(rows[0]), 27 - int(rows[-1]), int(columns[0]), 27 - int(columns[-1])) == black


@pytest.mark.parametrize("old", [True, False])
def test_halving_a_picture_takes_the_mean_of_two_pixels_and_no_more(old: bool) -> None:
    picture = torch.rand(1, 3, 56, 56)
    want = picture.unflatten(3, (28, 2)).mean(4).unflatten(2, (28, 2)).mean(3) * 2 - 1
    torch.testing.assert_close(prepare(picture, side=28, old=old), want, rtol=0, atol=1e-6)


def test_a_quarter_takes_the_middle_pixels_for_nothing_is_antialiased() -> None:
    picture = torch.rand(1, 3, 112, 112)
    middle = picture.unflatten(3, (28, 4))[..., 1:3].mean(4).unflatten(2, (28, 4))[:, :, :, 1:3].mean(3)
    torch.testing.assert_close(prepare(picture, side=28, old=False), middle * 2 - 1, rtol=0, atol=1e-6)


def test_a_prompt_ends_with_one_line_break_and_begins_with_one_begin_token(tmp_path: Path) -> None:
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "open": 5, "it": 6, "\n": 7}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for text in ("\n", ""):
        assert prompt_ids(text, tmp_path, vocabulary=96, most=10) == [2, 7]
    stand_in = prompt_ids("open it", None, vocabulary=96, most=10)
    assert stand_in == prompt_ids("open it\n", None, vocabulary=96, most=10) and stand_in[0] == 2 and len(stand_in) == 4


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        (lambda folder: prompt_ids("pick it up", folder, vocabulary=257152, most=48), MissingError, "has no tokenizer(.|\n)*copy tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}") and prompt_ids("pick", folder, vocabulary=96, most=48), DamagedError, "is no tokenizer"),
        (lambda folder: prompt_ids("one two three four", None, vocabulary=96, most=4), UsageError, "6 tokens(.|\n)*at most 4"),
    ],
)
def test_words_that_cannot_be_read_are_refused(fault: Callable[[Path], object], error: type[HarnessError], match: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=match):
        fault(tmp_path)


# ---------------------------------------------------------------- statistics


def processors(pack: Path, mode: str, low: str, high: str, *, post: bool = True, features: bool = True) -> dict[str, Tensor]:
    """Writes the processors of a policy as today's lerobot does; gives the statistics."""
    generator = torch.Generator().manual_seed(0)
    stats = {f"{name}.{part}": torch.rand(width, generator=generator) + (part == high) for name, width in ((STATE, 8), ("action", 7)) for part in (low, high)}
    listed = {STATE: {"type": "STATE", "shape": [8]}, "action": {"type": "ACTION", "shape": [7]}} if features else {}
    for name, kind in (("policy_preprocessor", "normalizer_processor"), *([("policy_postprocessor", "unnormalizer_processor")] if post else [])):
        file = f"{name}_step_5_{kind}.safetensors"
        config = {"eps": 1e-8, "features": listed, "norm_map": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}}
        steps = [{"registry_name": "to_batch_processor", "config": {}}, {"registry_name": kind, "config": config, "state_file": file}]
        (pack / f"checkpoint/{name}.json").write_text(json.dumps({"name": name, "steps": steps}))
        save_file(stats, pack / "checkpoint" / file)
    return stats


@pytest.mark.parametrize("post", [True, False])
@pytest.mark.parametrize(("mode", "low", "high"), [("MEAN_STD", "mean", "std"), ("MIN_MAX", "min", "max"), ("QUANTILES", "q01", "q99")])
def test_todays_statistics_come_from_the_processors(mode: str, low: str, high: str, post: bool, pack: Path, samples: tuple[Sample, ...]) -> None:
    stats, sample = processors(pack, mode, low, high, post=post), short(samples[0])
    adapter = pack_adapter(pack, cameras=["primary", "wrist"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = adapter.encode([sample])
    a, b, state = stats[f"{STATE}.{low}"], stats[f"{STATE}.{high}"], torch.tensor(sample.state)
    want = (state - a) / b if mode == "MEAN_STD" else 2 * (state - a) / (b - a) - 1
    torch.testing.assert_close(batch.inputs["state"][0], torch.cat([want, torch.zeros(2)]), rtol=1e-5, atol=1e-6)
    raw, a, b = adapter.forward(batch)["actions"][..., :7], stats[f"action.{low}"], stats[f"action.{high}"]
    want = raw * b + a if mode == "MEAN_STD" else (raw + 1) / 2 * (b - a) + a
    np.testing.assert_allclose(adapter.act([sample]), want.numpy(), rtol=1e-5, atol=1e-6)
    assert parity(adapter, pack).value < 0.5  # model inputs come normalised


def test_without_statistics_the_state_is_taken_as_normalised_with_one_warning(pack: Path, samples: tuple[Sample, ...]) -> None:
    adapter, sample = pack_adapter(pack), short(samples[0])
    with pytest.warns(UserWarning, match="already normalised") as warned:
        batch = adapter.encode([sample, sample])
    assert len(warned) == 1 and torch.equal(batch.inputs["state"][0, :8], torch.tensor(sample.state))
    with pytest.raises(MissingError, match="no statistics"):
        adapter.act([sample])


@OLD
def test_the_old_layout_normalises_the_state_and_gives_actions_their_units(pack: Path, samples: tuple[Sample, ...]) -> None:
    stats, sample, adapter = load_file(pack / "checkpoint/model.safetensors"), short(samples[0]), pack_adapter(pack)
    mean, std = (stats[f"normalize_inputs.buffer_observation_state.{part}"] for part in ("mean", "std"))
    batch = adapter.encode([sample])
    torch.testing.assert_close(batch.inputs["state"][0, :8], (torch.tensor(sample.state) - mean) / std, rtol=1e-5, atol=1e-6)
    mean, std = (stats[f"unnormalize_outputs.buffer_action.{part}"] for part in ("mean", "std"))
    want = adapter.forward(batch)["actions"][..., :7] * std + mean
    np.testing.assert_allclose(adapter.act([sample]), want.numpy(), rtol=1e-6)
    adapter.reset()
    assert torch.equal(adapter.step(batch)["action"], want[:, 0])


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        (lambda folder: (folder / "policy_preprocessor_step_5_normalizer_processor.safetensors").unlink(), MissingError, "named by policy_preprocessor"),
        (lambda folder: save_file({f"{STATE}.mean": torch.zeros(8)}, folder / "policy_preprocessor_step_5_normalizer_processor.safetensors"), DamagedError, "1 statistics missing(.|\n)*state.std"),
        (lambda folder: save_file({f"{STATE}.{part}": torch.ones(5) for part in ("mean", "std")}, folder / "policy_preprocessor_step_5_normalizer_processor.safetensors"), DamagedError, "do not fit(.|\n)*5"),
        (lambda folder: save_file({f"{STATE}.{part}": torch.full((8,), torch.nan) for part in ("mean", "std")}, folder / "policy_preprocessor_step_5_normalizer_processor.safetensors"), DamagedError, "NaN"),
        (lambda folder: (folder / "policy_preprocessor.json").write_text("{}"), DamagedError, "without steps"),
    ],
    ids=["file gone", "half", "other width", "NaN", "no steps"],
)
def test_damaged_processors_are_refused(fault: Callable[[Path], object], error: type[HarnessError], match: str, pack: Path) -> None:
    processors(pack, "MEAN_STD", "mean", "std")
    fault(pack / "checkpoint")
    with pytest.raises(error, match=match):
        pack_adapter(pack)


# ---------------------------------------------------------------- the queue of actions


def test_the_model_runs_only_when_the_queue_of_actions_is_empty(samples: tuple[Sample, ...]) -> None:
    adapter, fired = loaded(), []
    first, second = adapter.encode(samples[:1]), adapter.encode(samples[1:2])
    handle = adapter.model.get_submodule(adapter.clauses[Point("lm", "final_norm")].module).register_forward_hook(lambda *_: fired.append(1))
    try:
        adapter.reset()
        taken, counts = [], []
        for batch in (first, second, second, second, second):  # four of six actions are queued
            taken.append(adapter.step(batch)["action"])
            counts.append(len(fired))
        adapter.reset()
        adapter.step(second)
    finally:
        handle.remove()
        adapter.reset()
    assert counts == [1, 1, 1, 1, 2] and len(fired) == 3
    chunk = adapter.forward(first)["actions"]
    assert torch.equal(torch.stack(taken[:4], dim=1), chunk[:, :4, :7])


# ---------------------------------------------------------------- layouts and damage


@BOTH
def test_every_parameter_is_the_checkpoints_and_every_tensor_is_accounted_for(pack: Path) -> None:
    assert unlike(pack_adapter(pack)).value == 0
    anatomy = LerobotPI0.anatomy(pack / "checkpoint")
    stored = load_file(pack / "checkpoint/model.safetensors")
    assert {name for name in stored if name not in anatomy.shapes} == {name for name in stored if "gemma_expert.lm_head" in name or "normalize" in name}
    assert inspection.inspect(pack / "checkpoint") is not None


def test_names_without_their_leading_model_load_alike(pack: Path) -> None:
    def strip(state: State, config: dict[str, Any]) -> None:
        for name in list(state):
            state[name.removeprefix("model.")] = state.pop(name)

    assert parity(pack_adapter(edit(pack, strip)), pack).value < 0.5


@OLD
def test_the_old_layout_saved_with_a_newer_transformers_loads_alike(pack: Path) -> None:
    """lerobot up to September 2025 with transformers from 4.52 on: today's names, old configuration and buffers."""

    def rename(state: State, config: dict[str, Any]) -> None:
        for name in [name for name in state if name.startswith(PALIGEMMA)]:
            tail = name.removeprefix(PALIGEMMA)
            moved = tail.replace("language_model.lm_head", "lm_head") if "lm_head" in tail else f"model.{tail.replace('language_model.model', 'language_model')}"
            state[PALIGEMMA + moved] = state.pop(name)

    adapter = pack_adapter(edit(pack, rename))
    assert adapter.model.config.old and parity(adapter, pack).value < 0.5


def test_old_names_beside_a_new_configuration_are_names_only(pack: Path) -> None:
    def rename(state: State, config: dict[str, Any]) -> None:
        for name in sorted(state):
            state[old_name(name)] = state.pop(name)

    adapter = pack_adapter(edit(pack, rename))
    assert not adapter.model.config.old and parity(adapter, pack).value < 0.5


def test_an_embedding_in_place_of_the_tied_output_layer_loads_alike(pack: Path) -> None:
    edit(pack, lambda state, config: state.update({f"{PALIGEMMA}model.language_model.embed_tokens.weight": state.pop(f"{PALIGEMMA}lm_head.weight")}))
    assert parity(pack_adapter(pack), pack).value < 0.5


def test_shards_load_alike(pack: Path) -> None:
    folder = pack / "checkpoint"
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    shards = {f"model-0000{index + 1}-of-00002.safetensors": names[index::2] for index in range(2)}
    for file, own in shards.items():
        save_file({name: state[name] for name in own}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: file for file, own in shards.items() for name in own}}))
    (folder / "model.safetensors").unlink()
    assert parity(pack_adapter(pack), pack).value < 0.5


LAYER = f"{PALIGEMMA}model.language_model.layers.2."
Q = f"{LAYER}self_attn.q_proj.weight"


def drop(part: str) -> Callable[[State, dict[str, Any]], None]:
    def change(state: State, config: dict[str, Any]) -> None:
        for name in [name for name in state if part in name]:
            del state[name]

    return change


def mixed(state: State, config: dict[str, Any]) -> None:
    for name in sorted(state)[40:50]:
        state[old_name(name)] = state.pop(name)


def native(state: State, config: dict[str, Any]) -> None:
    config.pop("type")
    config["model_type"] = "pi0"


def put(**fields: object) -> Callable[[State, dict[str, Any]], None]:
    return lambda state, config: config.update(fields)


DAMAGE: dict[str, tuple[str, Callable[[State, dict[str, Any]], object], type[HarnessError], str]] = {
    "a tensor gone": ("a", drop(Q), DamagedError, "1 tensors missing(.|\n)*layers.2.self_attn.q_proj"),
    "the last layer gone": ("a", drop(LAYER), DamagedError, "9 tensors missing"),
    "the last layers of both gone": ("a", drop("layers.2."), DamagedError, "tensors missing"),
    "the expert gone": ("a", drop("gemma_expert.model"), DamagedError, "tensors missing"),
    "no words": ("a", drop("paligemma.lm_head"), DamagedError, "tensors missing(.|\n)*embed_tokens"),
    "a tensor left over": ("a", lambda state, config: state.update({"model.extra.weight": torch.ones(2)}), DamagedError, "no place for(.|\n)*model.extra"),
    "another shape": ("a", lambda state, config: state.update({Q: torch.ones(64, 40)}), DamagedError, "another shape(.|\n)*q_proj"),
    "NaN": ("a", lambda state, config: state[Q].fill_(torch.nan), DamagedError, "NaN"),
    "integers": ("a", lambda state, config: state.update({Q: torch.ones(64, 48, dtype=torch.int32)}), DamagedError, "no floating-point"),
    "a name with and without model.": ("a", lambda state, config: state.update({Q.removeprefix("model."): state[Q].clone()}), DamagedError, "twice"),
    "two layouts mixed": ("a", mixed, DamagedError, "two layouts"),
    "buffers, new configuration": ("a", lambda state, config: state.update({"normalize_inputs.buffer_observation_state.mean": torch.zeros(8)}), DamagedError, "two ages"),
    "transformers' own": ("a", native, DamagedError, "another layout(.|\n)*transformers' own(.|\n)*harness convert SRC DST --to lerobot_pi0"),
    "transformers' own, by names": ("a", lambda state, config: state.update({"model.dit.layers.0.x": torch.ones(1)}), DamagedError, "another layout"),
    "π0.5": ("a", lambda state, config: state.update({"model.time_mlp_in.weight": torch.ones(1)}), DamagedError, "another layout(.|\n)*π0.5"),
    "another policy": ("a", put(type="act"), DamagedError, "another layout(.|\n)*act"),
    "adapters": ("a", lambda state, config: state.update({f"{LAYER}self_attn.q_proj.lora_A.weight": torch.ones(1)}), DamagedError, "LoRA"),
    "no camera": ("a", put(input_features={}), DamagedError, "names no camera"),
    "another resolution": ("a", put(image_resolution=[56, 56]), DamagedError, "56 pixels(.|\n)*28"),
    "not square": ("a", put(image_resolution=[28, 56]), DamagedError, "not square"),
    "an unknown variant": ("a", put(paligemma_variant="gemma_7b"), DamagedError, "gemma_7b"),
    "too narrow for its state": ("a", put(max_state_dim=4), DamagedError, "contradict"),
    "other width of actions": ("a", put(max_action_dim=12), DamagedError, "another shape"),
    "ALOHA": ("b_old", put(adapt_to_pi_aloha=True), UsageError, "ALOHA"),
    "some buffers gone": ("b_old", drop("normalize_inputs"), DamagedError, "2 statistics missing(.|\n)*normalize_inputs"),
    "a buffer of another width": ("b_old", lambda state, config: state.update({"unnormalize_outputs.buffer_action.std": torch.ones(3)}), DamagedError, "do not fit"),
    "buffers never filled": ("b_old", lambda state, config: state["normalize_inputs.buffer_observation_state.mean"].fill_(torch.inf), DamagedError, "infinity"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_other_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    case, change, error, match = DAMAGE[name]
    if not (GOLDENS / case).is_dir():
        pytest.skip(f"pack {case} is not on this machine")
    pack = edit(Path(shutil.copytree(GOLDENS / case, tmp_path / case, copy_function=shutil.copyfile)), change)
    with pytest.raises(error, match=match):
        pack_adapter(pack)


def test_a_truncated_file_is_refused(pack: Path) -> None:
    file = pack / "checkpoint/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DamagedError, match="truncated"):
        pack_adapter(pack)


@OLD
def test_an_old_checkpoint_without_any_buffer_has_no_statistics(pack: Path, samples: tuple[Sample, ...]) -> None:
    adapter = pack_adapter(edit(pack, drop("normalize")))
    with pytest.warns(UserWarning, match="already normalised"):
        adapter.encode([short(samples[0])])
    with pytest.raises(MissingError, match="no statistics"):
        adapter.act([short(samples[0])])


def test_the_heads_of_an_unknown_tower_must_be_said_somewhere(pack: Path) -> None:
    (pack / "pack.json").unlink()
    with pytest.raises(MissingError, match="how many heads(.|\n)*num_attention_heads"):
        pack_adapter(pack)


# ---------------------------------------------------------------- bad input

BAD_SAMPLES: dict[str, tuple[Callable[[Sample], Sample], type[HarnessError], str]] = {
    "no instruction": (lambda sample: replace(sample, instruction=" "), UsageError, "no instruction"),
    "a state of another width": (lambda sample: replace(sample, state=np.zeros(6)), UsageError, "got      6(.|\n)*expected 7"),
    "a state of two axes": (lambda sample: replace(sample, state=np.zeros((1, 7))), UsageError, "another width"),
    "a camera is missing": (lambda sample: replace(sample, images={"primary": sample.images["primary"], "top": sample.images["wrist"]}), UsageError, "no camera wrist"),
    "no picture": (lambda sample: replace(sample, images={}), UsageError, "no image"),
    "a picture of fractions": (lambda sample: replace(sample, images={name: x / 255.0 for name, x in sample.images.items()}), UsageError, "not an RGB picture"),
    "a long instruction": (lambda sample: replace(sample, instruction="pick " * 60), UsageError, "62 tokens(.|\n)*at most 40"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_is_refused(name: str, samples: tuple[Sample, ...]) -> None:
    change, error, match = BAD_SAMPLES[name]
    with pytest.raises(error, match=match):
        loaded().encode([change(samples[0])])


def test_no_samples_and_samples_of_different_cameras_are_refused(samples: tuple[Sample, ...]) -> None:
    own = replace(samples[0], images={"base_0_rgb": samples[0].images["primary"]})
    for given, match in (([], "no sample"), ([own, samples[1]], "same cameras")):
        with pytest.raises(UsageError, match=match):
            loaded().encode(given)


def test_more_cameras_than_slots_are_refused() -> None:
    subject = replace(loaded().subject, options={"cameras": ["a", "b", "c", "d"]})
    with pytest.raises(UsageError, match="options.cameras(.|\n)*a, b, c, d(.|\n)*1 to 3"):
        subjects.load(subject, Runtime())


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(UsageError, match="two attention kernels"):
        subjects.load(loaded().subject, Runtime(attention="flash_attention_2"))  # type: ignore[arg-type]


BAD_INPUTS: dict[str, tuple[Callable[[dict[str, Tensor]], object], type[HarnessError], str]] = {
    "no words": (lambda given: given.pop(TOKENS), UsageError, "model inputs are missing"),
    "no picture": (lambda given: [given.pop(name) for name in list(given) if "images" in name], UsageError, "no picture"),
    "an unknown camera": (lambda given: given.update({"observation.images.image_7": given["observation.images.image_0"]}), UnknownNameError, "image_7"),
    "bytes": (lambda given: given.update({"observation.images.image_0": torch.zeros(2, 3, 28, 28, dtype=torch.uint8)}), UsageError, "no pictures"),
    "channels last": (lambda given: given.update({"observation.images.image_0": torch.zeros(2, 28, 28, 3)}), UsageError, "no pictures"),
    "rows that differ": (lambda given: given.update({STATE: torch.zeros(3, 8)}), UsageError, "do not belong together"),
    "a mask of another length": (lambda given: given.update({TOKEN_MASK: torch.ones(2, 4).bool()}), UsageError, "do not belong together"),
    "noise of another horizon": (lambda given: given.update(noise=torch.zeros(2, 4, 10)), UsageError, "noise does not fit"),
    "a state of another width": (lambda given: given.update({STATE: torch.zeros(2, 9)}), UsageError, "got      9(.|\n)*expected 8"),
    "a word beyond the vocabulary": (lambda given: given[TOKENS].fill_(96), UsageError, "0 to 95"),
    "no step": (lambda given: given.update(num_steps=torch.tensor(0)), UsageError, "no denoise step"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_model_inputs_are_refused(name: str) -> None:
    if not (GOLDENS / "a").is_dir():
        pytest.skip("pack a is not on this machine")
    change, error, match = BAD_INPUTS[name]
    given = {key: value.clone() for key, value in inputs("a").items()}
    change(given)
    with pytest.raises(error, match=match):
        pack_adapter(GOLDENS / "a").batch(given)


def test_the_family_is_told_by_the_policys_type_alone() -> None:
    assert LerobotPI0.recognises({"type": "pi0"})
    assert not any(LerobotPI0.recognises(config) for config in ({"model_type": "pi0"}, {"type": "pi05"}, {}))
