"""transformers' own π0 behind the adapter: its numbers, its inputs, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PI0ForConditionalGeneration

from harness import subjects
from harness.adapters import _pi0_inputs
from harness.adapters.pi0 import PI0
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.types import Point, Runtime, Sample, Subject

EMBEDDING = "model.vlm.language_model.embed_tokens.weight"
STATISTICS = {f"{kind}_{name}": [value] * 4 for kind in ("state", "actions") for name, value in (("mean", 0.5), ("std", 2.0))}


def mock(**options: object) -> PI0:
    subject = subjects.resolve("pi0:mock")
    return subjects.load(replace(subject, options={**subject.options, **options}), Runtime())  # type: ignore[return-value]


def samples(count: int = 2, *, width: int = 10) -> list[Sample]:
    rng = np.random.default_rng(0)

    def picture() -> np.ndarray:
        return rng.integers(0, 256, (20, 30, 3), np.uint8)

    words = ("pick up the red block", "open the drawer")
    return [Sample(str(row), words[row % 2], {"primary": picture(), "wrist": picture()}, rng.standard_normal(width)) for row in range(count)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mock model under the names of its modules, as `harness convert` writes them."""
    folder, model = tmp_path_factory.mktemp("pi0") / "checkpoint", mock().model
    model.config.save_pretrained(folder)
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def loaded(checkpoint: Path, **options: object) -> PI0:
    subject = subjects.resolve("pi0:checkpoint", checkpoint=checkpoint)
    return subjects.load(replace(subject, options={**subject.options, **options}), Runtime())  # type: ignore[return-value]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_actions_are_those_of_its_own_method(attention: str) -> None:
    adapter = subjects.load(subjects.resolve("pi0:mock"), Runtime(attention=attention))
    batch = adapter.encode(samples())
    inputs = dict(batch.inputs)
    inputs["num_steps"] = int(inputs["num_steps"])
    assert torch.equal(adapter.forward(batch)["actions"], adapter.model.sample_actions(**inputs))


def test_every_velocity_is_that_of_its_own_forward() -> None:
    adapter = mock()
    batch = adapter.encode(samples())
    named = adapter.forward(batch)
    for step in range(3):
        prefix = {name: batch.inputs[name] for name in ("input_ids", "pixel_values", "pixel_attention_mask", "attention_mask", "state")}
        with torch.no_grad():
            own = adapter.model(**prefix, noise=named[f"x_t.{step:02d}"], timestep=torch.full((2,), 1 - step / 3)).logits
        torch.testing.assert_close(named[f"velocity.{step:02d}"], own, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*taken as already normalised")
def test_a_checkpoint_computes_what_from_pretrained_computes(checkpoint: Path) -> None:
    """Buffers that no checkpoint holds (frequencies, factors, indices) are the framework's own."""
    adapter, own = loaded(checkpoint), PI0ForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager").eval()
    ours, theirs = (dict(model.named_buffers()) for model in (adapter.model, own))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(x, y) for x, y in zip(adapter.model.state_dict().values(), own.state_dict().values(), strict=True))
    inputs = dict(adapter.encode(samples()).inputs)
    inputs["num_steps"] = int(inputs["num_steps"])
    assert torch.equal(adapter.forward(adapter.encode(samples()))["actions"], own.sample_actions(**inputs))
    assert adapter.unlike_checkpoint() == []


@pytest.mark.parametrize("naming", ["loaded and saved", "built and saved", "modules"])
def test_all_three_namings_of_its_files_are_one_model(naming: str, saved: Path, tmp_path: Path) -> None:
    model = mock().model
    if naming == "modules":
        shutil.copytree(saved, tmp_path / "checkpoint")
    elif naming == "loaded and saved":
        PI0ForConditionalGeneration.from_pretrained(saved).save_pretrained(tmp_path / "checkpoint")
    else:
        other = PI0ForConditionalGeneration(loaded(saved).model.config)
        other.load_state_dict(model.state_dict())
        other.save_pretrained(tmp_path / "checkpoint")
    adapter = loaded(tmp_path / "checkpoint")
    assert all(torch.equal(x, y) for x, y in zip(adapter.model.state_dict().values(), model.state_dict().values(), strict=True))
    stored = load_file(tmp_path / "checkpoint/model.safetensors")
    anatomy = PI0.anatomy(tmp_path / "checkpoint")
    assert {name: tuple(x.shape) for name, x in stored.items()} == dict(anatomy.shapes)
    assert ("model.dit.norm.weight" in stored) == (naming != "built and saved")


def test_a_sample_does_not_depend_on_its_batch() -> None:
    adapter, both = mock(), samples()
    together = adapter.capture(adapter.encode(both), adapter.clauses)
    for row, sample in enumerate(both):
        alone = adapter.capture(adapter.encode([sample]), adapter.clauses)
        for point, value in alone.items():
            torch.testing.assert_close(together[point][row : row + 1], value, rtol=1e-4, atol=1e-4)


def test_states_of_the_state_token_are_the_same_in_every_step() -> None:
    """It sees no action; what differs between steps is the actions' own."""
    adapter = mock()
    batch = adapter.encode(samples())
    points = [Point("expert", "output", 2, step) for step in range(3)]
    found = adapter.capture(batch, points)
    state, action = (batch.tokens["expert"].spans[name][0] for name in ("state", "action"))
    torch.testing.assert_close(found[points[0]][:, state], found[points[2]][:, state], rtol=1e-5, atol=1e-5)
    assert (found[points[0]][:, action] - found[points[2]][:, action]).abs().max() > 0.01


def test_points_have_the_published_shapes() -> None:
    adapter = subjects.load(subjects.resolve("pi0:abstract"), Runtime())
    clauses = adapter.clauses
    assert clauses[Point("lm", "output", 17)].width == 2048 and clauses[Point("expert", "output", 17, 9)].width == 1024
    assert Point("lm", "output", 18) not in clauses and Point("expert", "output", 0, 10) not in clauses
    assert list(clauses)[-1] == Point("expert", "final_norm", step=9)
    batch = adapter.encode(samples())
    assert batch.inputs["input_ids"].shape == (2, 2 * 256 + 48) and batch.tokens["expert"].mask.shape == (2, 51)


# ---------------------------------------------------------------- inputs


def test_the_sequence_is_pictures_then_prompt_then_padding() -> None:
    adapter = mock()
    batch = adapter.encode(samples())
    spans, mask = batch.tokens["lm"].spans, batch.tokens["lm"].mask
    words = [6, 4]  # and a begin token and a line break, as `word_ids` has no space
    assert spans["image.0"].sum(1).tolist() == spans["image.1"].sum(1).tolist() == [4, 4]
    assert (mask.sum(1) - 8).tolist() == [count + 1 for count in words]
    order = torch.stack([spans[name] for name in ("image.0", "image.1", "text", "padding")]).float().argmax(0)
    assert bool((order.diff(dim=1) >= 0).all())
    assert batch.inputs["input_ids"][0, 8] == 2 and mask.shape[1] == 8 + 48


def test_masked_cameras_have_positions_in_the_tower_and_none_in_the_sequence() -> None:
    adapter = mock()
    batch = adapter.encode(samples(3))
    inputs = {name: value for name, value in batch.inputs.items()}
    shown = torch.tensor([[True, True], [True, False], [False, True]])
    ids = inputs["input_ids"].clone()
    for row in (1, 2):  # one picture's tokens fewer, the prompt moved forward
        ids[row] = torch.cat([ids[row, 4:], torch.zeros(4, dtype=torch.long)])
    mask = (torch.arange(ids.shape[1]) < (inputs["attention_mask"].sum(1) - torch.tensor([0, 4, 4]))[:, None]).long()
    made = adapter.batch({**inputs, "input_ids": ids, "attention_mask": mask, "pixel_attention_mask": shown})
    assert [[int(made.tokens["lm"].spans[f"image.{index}"][row].sum()) for index in (0, 1)] for row in range(3)] == [[4, 4], [4, 0], [0, 4]]
    assert made.tokens["vision"].mask.sum(1).tolist() == [8, 4, 4]
    named = adapter.capture(made, [Point("projector", "output"), Point("lm", "embedding")])
    torch.testing.assert_close(named[Point("lm", "embedding")][2, :4], named[Point("projector", "output")][2, 4:])


def test_its_own_names_of_cameras_are_taken_before_the_cards() -> None:
    adapter, (sample, _) = mock(), samples()
    own = replace(sample, images={"left_wrist_0_rgb": sample.images["wrist"], "base_0_rgb": sample.images["primary"]})
    assert all(torch.equal(x, y) for x, y in zip(adapter.encode([own]).inputs.values(), adapter.encode([sample]).inputs.values(), strict=True))


def test_pictures_are_placed_in_the_middle_of_black() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    placed = _pi0_inputs.centred(white, 28)
    torch.testing.assert_close(placed[:, 7:21], torch.ones(3, 14, 28))
    assert bool((placed[:, :7] == -1).all()) and bool((placed[:, 21:] == -1).all())


def test_the_processors_own_preprocessing_pads_below_with_grey() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    placed = _pi0_inputs.cornered(white, 28)
    assert torch.equal(placed[:, :14], torch.ones(3, 14, 28)) and bool((placed[:, 14:] == 0).all())
    adapter = mock(preprocessing="transformers")
    assert bool((adapter.encode(samples()).inputs["pixel_values"] == 0).any())


def test_noise_follows_its_seed_and_no_global_generator() -> None:
    first, again, other = (mock(noise_seed=seed) for seed in (0, 0, 1))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    noise = [adapter.encode(samples()).inputs["noise"] for adapter in (first, again, other)]
    assert torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2]) and torch.equal(noise[0][0], noise[0][1])
    assert torch.equal(before, torch.get_rng_state())


def test_statistics_normalise_the_state_and_give_actions_units(checkpoint: Path) -> None:
    (checkpoint / "processor_config.json").write_text(json.dumps(STATISTICS))
    adapter, rows = loaded(checkpoint), samples(width=4)
    assert adapter.state_width == 4
    state = adapter.encode(rows).inputs["state"]
    np.testing.assert_allclose(state[0, :4], (rows[0].state - 0.5) / (2.0 + 1e-8), rtol=1e-6)
    assert bool((state[:, 4:] == 0).all())
    actions = adapter.act(rows)
    assert actions.shape == (2, 6, 4)
    np.testing.assert_allclose(actions[1], adapter.forward(adapter.encode(rows[1:]))["actions"][0, :, :4] * 2.0 + 0.5, rtol=1e-5, atol=1e-6)


def test_without_statistics_the_state_is_taken_as_it_is_and_said_so(checkpoint: Path) -> None:
    adapter = loaded(checkpoint)
    with pytest.warns(UserWarning, match="taken as already normalised"):
        state = adapter.encode(samples(width=7)).inputs["state"]
    np.testing.assert_allclose(state[0, :7], samples(width=7)[0].state, rtol=1e-6)
    with pytest.raises(MissingError, match=r"no units(.|\n)*actions_mean"):
        adapter.act(samples())


# ---------------------------------------------------------------- refused inputs


def changed(**fields: object) -> Callable[[Sample], Sample]:
    return lambda sample: replace(sample, **fields)


BAD_SAMPLES = {
    "no instruction": (changed(instruction=" "), UsageError, "no instruction"),
    "a camera is missing": (lambda sample: replace(sample, images={"primary": sample.images["primary"], "side": sample.images["primary"]}), UsageError, "no camera wrist"),
    "too much state": (changed(state=np.zeros(11)), UsageError, r"another width(.|\n)*11(.|\n)*at most 10"),
    "a prompt that is too long": (changed(instruction="very " * 60), UsageError, r"62 tokens(.|\n)*at most 48"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_an_unfit_sample_is_refused(name: str) -> None:
    change, kind, match = BAD_SAMPLES[name]
    with pytest.raises(kind, match=match):
        mock().encode([change(samples()[0])])


def test_a_state_of_another_dataset_is_refused(checkpoint: Path) -> None:
    (checkpoint / "processor_config.json").write_text(json.dumps(STATISTICS))
    with pytest.raises(UsageError, match=r"another width(.|\n)*got +7(.|\n)*expected 4"):
        loaded(checkpoint).encode(samples(width=7))


BAD_INPUTS = {
    "no pictures": (lambda given: given.pop("pixel_values"), "missing"),
    "image tokens for another camera": (lambda given: given.update(pixel_attention_mask=torch.tensor([[True, False]] * 2)), "another number of image tokens"),
    "unpadded state": (lambda given: given.update(state=given["state"][:, :7]), "do not fit"),
    "noise of another horizon": (lambda given: given.update(noise=given["noise"][:, :3]), "do not fit"),
    "a word that is not there": (lambda given: given["input_ids"].index_fill_(1, torch.tensor([9]), 600), "no words"),
    "no step": (lambda given: given.update(num_steps=torch.tensor(0)), "no denoise step"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_unfit_inputs_are_refused(name: str) -> None:
    adapter = mock()
    given = {key: value.clone() for key, value in adapter.encode(samples()).inputs.items()}
    change, match = BAD_INPUTS[name]
    change(given)
    with pytest.raises(UsageError, match=match):
        adapter.batch(given)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="do not fit the model's cameras"):
        mock(cameras=["a", "b", "c", "d"])
    with pytest.raises(UnknownNameError, match="pi0"):
        mock(preprocessing="openpi").encode(samples())


# ---------------------------------------------------------------- refused checkpoints


def stored(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        found = {name: x.clone() for name, x in load_file(folder / "model.safetensors").items()}
        change(found)
        save_file(found, folder / "model.safetensors")

    return edit


def configured(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def lerobots(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"type": "pi0"}))


OLD = "model.paligemma_with_expert.paligemma.language_model.model.embed_tokens.weight"
BAD_CHECKPOINTS = {
    "a tensor is missing": (stored(lambda x: x.pop("model.dit.norm.weight")), DamagedError, r"1 tensors missing(.|\n)*model\.dit\.norm\.weight"),
    "a tensor too many": (stored(lambda x: x.update({"model.dit.layers.9.mlp.up_proj.weight": torch.ones(56, 32)})), DamagedError, "no place for"),
    "a foreign tensor": (stored(lambda x: x.update({"value_head.weight": torch.ones(2)})), DamagedError, r"no place for(.|\n)*value_head"),
    "misshapen": (stored(lambda x: x.update({"model.dit.norm.weight": torch.ones(31)})), DamagedError, "another shape"),
    "NaN": (stored(lambda x: x["model.dit.norm.weight"].fill_(torch.nan)), DamagedError, "NaN"),
    "lm_head beside embed_tokens": (stored(lambda x: x.update({"paligemma_with_expert.paligemma.lm_head.weight": x[EMBEDDING] + 1})), DamagedError, r"two embeddings(.|\n)*silently win"),
    "two namings of one tensor": (stored(lambda x: x.update({OLD: x[EMBEDDING] + 1})), DamagedError, "same place"),
    "lerobot's": (lerobots, DamagedError, r"checkpoint of lerobot(.|\n)*harness convert .* --to pi0"),
    "openpi's": (lambda folder: (folder / "params").mkdir(), HarnessError, "openpi|orbax|no weights"),
    "another model": (configured(lambda config: config.update(model_type="paligemma")), DamagedError, "not a checkpoint of transformers' pi0"),
    "experts of two depths": (configured(lambda config: config["dit_config"].update(num_hidden_layers=2)), DamagedError, "experts differ"),
    "a projector of another width": (configured(lambda config: config["vlm_config"].update(projection_dim=40)), DamagedError, "projection_dim 40"),
    "a field of no use": (configured(lambda config: config.update(chunk_size="many")), DamagedError, "not usable"),
    "statistics of two lengths": (lambda folder: (folder / "processor_config.json").write_text(json.dumps(STATISTICS | {"state_std": [1.0]})), DamagedError, "not usable"),
    "half the statistics": (lambda folder: (folder / "processor_config.json").write_text(json.dumps({"state_mean": [1.0]})), DamagedError, "statistics"),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_refused(name: str, checkpoint: Path) -> None:
    edit, kind, match = BAD_CHECKPOINTS[name]
    edit(checkpoint)
    with pytest.raises(kind, match=match):
        loaded(checkpoint)


def test_its_config_is_recognised() -> None:
    assert PI0.recognises({"model_type": "pi0"})
    assert not any(PI0.recognises(config) for config in ({"type": "pi0"}, {"model_type": "paligemma"}, {}))


def test_a_subject_is_what_the_card_says() -> None:
    subject: Subject = subjects.resolve("pi0:mock")
    assert subject.family == "pi0" and subjects.missing("pi0:checkpoint") == "pass --checkpoint pi0=DIRECTORY"
