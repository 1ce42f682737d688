"""The RoboVLMs adapter: sequence, pictures, stream, actions, and a loader that takes every published layout and no damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness import inspection, readers, subjects
from harness.adapters import _robovlms_weights
from harness.adapters._robovlms_config import HeadConfig, RoboVLMConfig
from harness.adapters._robovlms_head import PolicyHead
from harness.adapters._robovlms_image import preprocess
from harness.adapters._robovlms_layout import layout
from harness.adapters.robovlms import RoboVLMs
from harness.cards import model_card
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.types import Batch, Point, Runtime, Sample, Weights

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "fixtures/data/robovlms_tiny"


@lru_cache
def loaded(subject: str, runtime: Runtime = Runtime()) -> RoboVLMs:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return subjects.load(subjects.resolve(subject), runtime)  # type: ignore[return-value]


@pytest.fixture(params=["robovlms_tiny:checkpoint", "robovlms:mock", "robovlms_mobile:mock"])
def adapter(request: pytest.FixtureRequest) -> RoboVLMs:
    return loaded(request.param)


@pytest.fixture
def tiny() -> RoboVLMs:
    """The tiny checkpoint: two cameras, two action tokens, a window of four frames."""
    return loaded("robovlms_tiny:checkpoint")


@pytest.fixture
def mock() -> RoboVLMs:
    return loaded("robovlms:mock")


@pytest.fixture
def mobile() -> RoboVLMs:
    return loaded("robovlms_mobile:mock")


@pytest.fixture(scope="module")
def samples() -> Iterator[tuple[Sample, ...]]:
    """Two samples of two cameras with instructions of different length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = readers.read("photos").samples
    short, long = (choose(found, key=lambda sample: len(sample.instruction.split())) for choose in (min, max))
    pictures = [next(iter(sample.images.values())) for sample in (short, long)]
    yield tuple(replace(sample, images={"primary": pictures[row], "wrist": pictures[1 - row][::-1].copy()}) for row, sample in enumerate((short, long)))


def frames(adapter: RoboVLMs, batch: Batch, window: int, seed: int = 0) -> dict[str, Tensor]:
    """Upstream inputs of `window` frames of noise with the prompts of `batch`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = {name: torch.randn(len(x), window, *x.shape[2:], generator=generator) for name, x in batch.inputs.items() if name.startswith("vision")}
    return {**pixels, "lang_x": batch.inputs["lang_x"], "attention_mask": batch.inputs["attention_mask"]}


# ---------------------------------------------------------------- the sequence


def inserted(length: int, last: int, latents: int, cameras: int, actions: int) -> list[tuple[str, int]]:
    """The sequence by insertions into a list, one after the other."""
    sequence = [("text", position) for position in range(length)]
    for camera in range(cameras):
        sequence[1:1] = [(f"image.{camera}", latent) for latent in range(latents)]
    before = sequence.index(("text", last))
    sequence[before:before] = [("action", token) for token in range(actions)]
    return sequence


@pytest.mark.parametrize(("length", "last"), [(2, 1), (7, 6), (9, 5), (9, 1)])
@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("actions", [1, 3])
def test_the_order_is_that_of_insertions_one_after_the_other(length: int, last: int, cameras: int, actions: int) -> None:
    parts = [("text", i) for i in range(length)] + [(f"image.{c}", i) for c in range(cameras) for i in range(4)] + [("action", i) for i in range(actions)]
    mask = torch.ones(1, length, dtype=torch.bool)
    placed = layout(mask, torch.tensor([last]), latents=4, cameras=cameras, actions=actions)
    expected = inserted(length, last, 4, cameras, actions)
    assert [parts[index] for index in placed.order[0]] == expected
    assert placed.action_at[0].tolist() == [expected.index(("action", token)) for token in range(actions)]
    for name, span in placed.tokens.spans.items():
        assert span[0].tolist() == [kind == name for kind, _ in expected]


def test_padding_stands_where_upstream_leaves_it() -> None:
    """A short row of a batch: its own end, pads, the action token, and a pad as the last token."""
    mask = torch.tensor([[1, 1, 1, 0, 0]]).bool()
    placed = layout(mask, torch.tensor([4]), latents=2, cameras=1, actions=1)
    assert placed.tokens.mask[0].tolist() == [True, True, True, True, True, False, True, False]
    assert placed.tokens.spans["action"][0].tolist() == [False] * 6 + [True, False]


@pytest.mark.parametrize("last", [0, 5])
def test_a_prompt_without_a_last_token_is_refused(last: int) -> None:
    with pytest.raises(UsageError, match=r"a first and a last token(.|\n)*1 \.\. 4"):
        layout(torch.ones(1, 5, dtype=torch.bool), torch.tensor([last]), latents=2, cameras=1, actions=1)


def test_spans_are_disjoint_and_with_the_padding_cover_each_sequence(adapter: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    batch = adapter.encode(samples)
    hand = {"vision_hand", "projector_hand"} if len(adapter.cameras) == 2 else set()
    assert set(batch.tokens) == {"vision", "projector", "lm", "act_head"} | hand
    for tokens in batch.tokens.values():
        assert (sum(span.long() for span in tokens.spans.values()) == 1).all()
        assert torch.equal(tokens.spans["padding"], ~tokens.mask)
    assert batch.tokens["lm"].mask.long().diff(dim=1).max() <= 0  # on the right
    assert not batch.tokens["lm"].mask.all()


def test_every_point_has_the_declared_width_and_the_length_of_its_stack(adapter: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    batch = adapter.encode(samples)
    captured = adapter.capture(batch, adapter.clauses)
    for point, values in captured.items():
        assert values.shape == (2, batch.tokens[point.stack].mask.shape[1], adapter.clauses[point].width), point
    assert list(adapter.clauses)[-1] == Point("act_head", "input")


def test_the_context_vector_is_the_final_norm_at_the_action_tokens(adapter: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    batch = adapter.encode(samples)
    captured, outputs = adapter.capture(batch, ["lm.final_norm", "act_head.input"]), adapter.forward(batch)
    context = captured[Point("act_head", "input")]
    assert outputs["action_hs"].shape == (2, 1, adapter.model.config.head.latent, adapter.model.config.width)
    assert torch.equal(context, outputs["action_hs"].flatten(1, 2))
    assert torch.equal(context.flatten(0, 1), captured[Point("lm", "final_norm")][batch.tokens["lm"].spans["action"]])


def test_a_padded_row_is_the_row_alone(adapter: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    together = adapter.forward(adapter.encode(samples))["action_hs"]
    alone = torch.cat([adapter.forward(adapter.encode([sample]))["action_hs"] for sample in samples])
    assert (together - alone).abs().max() < 1e-4


def test_upstream_s_padding_couples_a_batch_and_ours_does_not(tiny: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    batch = tiny.encode(samples)
    inputs = frames(tiny, batch, 1)
    together = tiny.forward(tiny.batch(inputs))["action_hs"]
    length = int(inputs["attention_mask"][0].sum())
    alone = {name: (x[:1, :length] if x.ndim == 2 else x[:1]) for name, x in inputs.items()}
    assert (together[:1] - tiny.forward(tiny.batch(alone))["action_hs"]).abs().max() > 0.01


def test_frames_of_a_window_are_rows_of_the_language_model(tiny: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    inputs = frames(tiny, tiny.encode(samples), 3)
    batch = tiny.batch(inputs, ["short", "long"])
    assert batch.sample_ids == ("short", "long")
    captured = tiny.capture(batch, tiny.clauses)
    for point, values in captured.items():
        assert values.shape[:2] == batch.tokens[point.stack].mask.shape, point
    assert captured[Point("lm", "final_norm")].shape[0] == 6
    assert captured[Point("act_head", "input")].shape[:2] == (2, 3 * 2)
    single = tiny.capture(tiny.batch({name: x[:, 1:2] if x.ndim == 5 else x for name, x in inputs.items()}), ["act_head.input"])
    assert torch.allclose(single[Point("act_head", "input")], captured[Point("act_head", "input")][:, 2:4], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"vision_gripper": None}, {"vision_x": lambda x: x[:, :, :, :-1]}, {"attention_mask": lambda x: x[:, 1:]}, {"vision_gripper": lambda x: x[:, :1]}, {"vision_x": lambda x: x[:, 0]}],
    ids=["no hand camera", "another size", "another length", "another window", "no window"],
)
def test_inputs_that_do_not_fit_are_refused(tiny: RoboVLMs, samples: tuple[Sample, ...], change: Mapping[str, Callable[[Tensor], Tensor] | None]) -> None:
    inputs = frames(tiny, tiny.encode(samples), 2)
    changed = {name: change[name](x) if name in change and change[name] else x for name, x in inputs.items() if change.get(name, True) is not None}
    with pytest.raises(UsageError, match=r"model inputs do not fit(.|\n)*vision_gripper"):
        tiny.batch(changed)


# ---------------------------------------------------------------- prompt, cameras, pictures


class Recording:
    """A tokenizer that remembers what it was asked and answers with fixed ids."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, prompt: str, **options: Any) -> dict[str, list[int]]:
        self.asked.append((prompt, options))
        return {"input_ids": [0, 7, 8, 2]}


def copy_of(adapter: RoboVLMs, **options: Any) -> RoboVLMs:
    return RoboVLMs(replace(adapter.subject, options={**adapter.subject.options, **options}), adapter.runtime, adapter.model, adapter.clauses)


def test_the_prompt_is_upstream_s_with_the_instruction_stripped(mock: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    adapter = copy_of(mock)
    adapter.__dict__["tokenizer"] = tokenizer = Recording()
    batch = adapter.encode([replace(samples[0], instruction="  Open the TOP drawer \n")])
    assert tokenizer.asked == [("<grounding>An image of a robot Open the TOP drawer", {"truncation": True, "max_length": 512})]
    assert batch.inputs["lang_x"].tolist() == [[0, 7, 8, 2]]


def test_stand_in_ids_have_the_shape_of_a_prompt(mock: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    batch = mock.encode(samples)
    for ids, valid in zip(batch.inputs["lang_x"], batch.inputs["attention_mask"], strict=True):
        words = ids[valid].tolist()
        assert (words[0], words[-1]) == (0, 2)
        assert min(words[1:-1]) > 2 and max(words) < 512
        assert set(ids[~valid].tolist()) <= {1}
    long = mock.encode([replace(samples[0], instruction="open " * 2000)])
    assert long.inputs["lang_x"].shape[1] == 512 and long.inputs["lang_x"][0, -1] == 2


def with_directory(adapter: RoboVLMs, directory: Path) -> RoboVLMs:
    return RoboVLMs(replace(adapter.subject, weights=Weights("directory", "digest", directory)), adapter.runtime, adapter.model, adapter.clauses)


@pytest.mark.parametrize("known", [False, True])
def test_a_tokenizer_that_knows_no_word_makes_way_for_stand_ins(tiny: RoboVLMs, checkpoint: Path, known: bool) -> None:
    adapter = with_directory(tiny, checkpoint)
    path = checkpoint / "vlm/tokenizer.json"
    if known:
        path.write_text(path.read_text().replace('"w0"', '"robot"'))
    assert (adapter.tokenizer is not None) == known
    assert len(set(adapter._ids("open the drawer"))) > (4 if not known else 1)


def test_a_published_vocabulary_needs_its_tokenizer(mock: RoboVLMs, checkpoint: Path, samples: tuple[Sample, ...]) -> None:
    for path in (checkpoint / "vlm").glob("tokenizer*"):
        path.unlink()
    assert with_directory(loaded("robovlms_tiny:checkpoint"), checkpoint).tokenizer is None
    with pytest.raises(MissingError, match=r"no tokenizer(.|\n)*tokenizer\.json(.|\n)*vlm"):
        with_directory(loaded("robovlms:abstract"), checkpoint).encode(samples)


def test_the_hand_camera_is_the_second_and_comes_first(tiny: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    assert tiny.cameras == ("primary", "wrist")
    spans = tiny.encode(samples).tokens["lm"].spans
    assert spans["image.1"].nonzero()[:, 1].max() < spans["image.0"].nonzero()[:, 1].min()


def test_a_model_of_one_camera_takes_the_first_name(mock: RoboVLMs) -> None:
    assert mock.cameras == ("primary",)
    assert copy_of(mock, cameras=["front", "hand"]).cameras == ("front",)


def test_two_cameras_need_two_names(tiny: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    assert copy_of(tiny, cameras=["front", "hand"]).cameras == ("front", "hand")
    with pytest.raises(UsageError, match=r"sees two cameras(.|\n)*options\.cameras"):
        copy_of(tiny, cameras=["front"]).encode(samples)
    with pytest.raises(UsageError, match=r"has no camera wrist"):
        tiny.encode([replace(samples[0], images={"primary": samples[0].images["primary"]})])


def test_the_hand_camera_has_no_weights_of_its_own(tiny: RoboVLMs) -> None:
    hand = {id(x) for x in tiny.model.hand.parameters()}
    assert hand and hand <= {id(x) for x in tiny.model.backbone.parameters()}
    assert tiny.unlike_checkpoint() == []


def test_a_wrong_parameter_is_named(tiny: RoboVLMs, checkpoint: Path) -> None:
    content = torch.load(checkpoint / "model.pt", weights_only=True)
    content["model_state_dict"]["module.action_token"] += 1
    torch.save(content, checkpoint / "model.pt")
    assert with_directory(tiny, checkpoint).unlike_checkpoint() == ["action_token"]


@pytest.mark.parametrize("stack", ["vision", "vision_hand", "lm"])
def test_points_equal_the_framework_s_tuple(tiny: RoboVLMs, samples: tuple[Sample, ...], stack: str) -> None:
    batch = tiny.encode(samples)
    found = tiny.framework_tuple(batch, stack)
    indexed = {point: clause.hidden_states_index for point, clause in tiny.clauses.items() if point.stack == stack and clause.hidden_states_index is not None}
    assert set(indexed.values()) == set(range(len(found)))
    for point, value in tiny.capture(batch, indexed).items():
        assert torch.equal(value, found[indexed[point]]), point


def test_only_stacks_of_the_framework_have_a_tuple(mock: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    with pytest.raises(UnknownNameError, match="vision_hand"):
        mock.framework_tuple(mock.encode(samples), "vision_hand")


def test_a_picture_is_squeezed_to_a_square_with_the_configuration_s_statistics(mock: RoboVLMs) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    config = replace(mock.model.config, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.25, 2.0))
    for style, kernel, mean, std in (("robovlms", Image.Resampling.BICUBIC, [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]), ("mobile", Image.Resampling.BILINEAR, [0] * 3, [1] * 3)):
        resized = np.asarray(Image.fromarray(picture).resize((56, 56), kernel), np.float64) / 255
        expected = ((resized - mean) / std).transpose(2, 0, 1)
        np.testing.assert_allclose(preprocess(picture, config, style), expected, atol=1e-5)


def test_the_card_says_how_pictures_are_prepared(mobile: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    picture = samples[0].images["primary"]
    pixels = mobile.encode(samples[:1]).inputs["vision_x"][0, 0].numpy()
    np.testing.assert_array_equal(pixels, preprocess(picture, mobile.model.config, "mobile"))
    assert np.abs(pixels - preprocess(picture, mobile.model.config)).max() > 0.1
    with pytest.raises(UnknownNameError, match=r"no image preprocessing named 'mobil'; the nearest is 'mobile'"):
        copy_of(mobile, preprocessing="mobil").encode(samples)


@pytest.mark.parametrize("picture", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_picture_is_refused(mock: RoboVLMs, picture: np.ndarray) -> None:
    with pytest.raises(UsageError, match="not an RGB picture"):
        preprocess(picture, mock.model.config)


# ---------------------------------------------------------------- the policy head and its stream


def head(**changes: Any) -> PolicyHead:
    config = {"kind": "LSTMDecoder", "hidden_size": 6, "action_dim": 7, "down_sample": "none", "latent": 2, "num_layers": 2, "window": 3, "chunk": 2, **changes}
    torch.manual_seed(0)
    return PolicyHead(HeadConfig(**config), 5, dtype=torch.float32).requires_grad_(False)


def test_a_stream_is_the_window_until_it_outgrows_it_and_then_the_last_window_re_run() -> None:
    policy, tokens = head(), torch.randn(2, 6, 2, 5, generator=torch.Generator().manual_seed(1))
    for frame in range(6):
        start = max(0, frame - 2)  # three frames back at most
        states, _ = policy.rnn(tokens[:, start : frame + 1].flatten(2))
        found = policy.step(tokens[:, frame : frame + 1])
        assert found.rnn.shape[1] == (1 if frame < 3 else 3)
        assert torch.allclose(found.rnn[:, -1], states[:, -1], atol=1e-6)
        assert torch.allclose(found.pose[:, 0].flatten(1), policy.actions(states[:, -1]), atol=1e-6)
        assert (found.pose.shape, found.gripper.shape) == ((2, 1, 2, 6), (2, 1, 2, 1))


def test_reset_begins_another_stream_and_whole_windows_leave_it_alone() -> None:
    policy, tokens = head(), torch.randn(1, 3, 2, 5, generator=torch.Generator().manual_seed(1))
    first = policy.step(tokens[:, :1]).pose
    policy.forward(tokens)
    second = policy.step(tokens[:, 1:2]).pose
    assert not torch.equal(second, policy.forward(tokens[:, 1:2]).pose)
    assert torch.allclose(second, policy.forward(tokens[:, :2]).pose[:, 1:], atol=1e-6)
    policy.reset()
    assert torch.equal(policy.step(tokens[:, :1]).pose, first)


@pytest.mark.parametrize("shape", [(1, 2, 2, 5), (3, 1, 2, 5)], ids=["two frames", "other samples"])
def test_what_does_not_continue_the_stream_is_refused(shape: tuple[int, ...]) -> None:
    policy = head()
    policy.step(torch.zeros(1, 1, 2, 5))
    with pytest.raises(UsageError, match=r"does not continue the stream(.|\n)*one frame of 1 samples(.|\n)*reset\(\)"):
        policy.step(torch.zeros(shape))


def test_pooling_takes_maxima_over_parts_of_the_tokens() -> None:
    """Twice as many tokens as the head has places for: each place takes the larger of two neighbours."""
    policy, tokens = head(down_sample="pooling"), torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    expected = tokens.unflatten(2, (2, 2)).amax(3).flatten(2)
    assert torch.equal(policy.forward(tokens).rnn, policy.rnn(expected)[0])
    assert torch.equal(policy.forward(tokens[:, :, :2]).rnn, policy.rnn(tokens[:, :, :2].flatten(2))[0])  # as many: nothing to pool


def test_the_velocity_head_has_no_gripper() -> None:
    policy = head(kind="MobileVLALSTMDecoder", action_dim=2)
    found = policy.forward(torch.zeros(1, 3, 2, 5))
    assert found.velocities.shape == (1, 3, 2, 2)
    assert found.pose is None and found.gripper is None


def test_a_forward_does_not_depend_on_the_calls_before_it(tiny: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    batch = tiny.encode(samples)
    first = tiny.forward(batch)
    tiny.reset()
    steps = [tiny.step(batch) for _ in range(3)]
    again = tiny.forward(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.allclose(steps[0]["act_head.pose"], first["act_head.pose"], atol=1e-6)
    assert not torch.allclose(steps[1]["act_head.pose"], first["act_head.pose"], atol=1e-6)
    tiny.forward(batch), tiny.capture(batch, tiny.clauses)
    tiny.reset()
    assert torch.equal(tiny.step(batch)["act_head.pose"], steps[0]["act_head.pose"])


def test_upstream_s_names_hold_a_window_and_its_stream(tiny: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    named = tiny.upstream(frames(tiny, tiny.encode(samples), 3))
    plain = {name for name in named if not name.startswith("rollout.")}
    assert {"action_hs", "hidden_states.last", "layer.0.input", "layer.2.output", "image_embeds.hand", "act_head.rnn.output"} <= plain
    assert {name.removeprefix(f"rollout.{frame}.") for frame in range(3) for name in named if name.startswith(f"rollout.{frame}.")} == plain
    for frame in range(3):  # within the window a stream is the window
        assert torch.allclose(named[f"rollout.{frame}.act_head.pose"][:, 0], named["act_head.pose"][:, frame], atol=1e-5)


# ---------------------------------------------------------------- actions


def test_an_action_is_the_first_of_the_chunk_in_the_range_of_the_configuration(adapter: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    actions, config = adapter.act(samples), adapter.model.config
    assert actions.shape == (2, config.head.action_dim)
    for sample, action in zip(samples, actions, strict=True):
        output = {name: x.double().numpy() for name, x in adapter.forward(adapter.encode([sample])).items()}
        motion = output["act_head.pose" if config.head.gripper else "act_head.velocities"][0, 0, 0]
        low, high = config.norm_min, config.norm_max
        np.testing.assert_allclose(action[: len(motion)], low + (motion + 1) / 2 * (high - low), atol=1e-12)
        if config.head.gripper:
            assert action[-1] == float(output["act_head.gripper"][0, 0, 0, 0] > 0)


def test_the_gripper_opens_at_one_half_and_a_raw_action_stays_raw(mock: RoboVLMs) -> None:
    output = {"act_head.pose": torch.linspace(-1, 1, 6).expand(1, 1, 2, 6)}
    for logit, expected in ((0.01, 1.0), (-0.01, 0.0)):
        action = mock._first_action({**output, "act_head.gripper": torch.full((1, 1, 2, 1), logit)})
        np.testing.assert_allclose(action, [*np.linspace(-0.65, 0.65, 6), expected], atol=1e-6)
    raw = RoboVLMs(mock.subject, mock.runtime, mock.model, mock.clauses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock.model, "config", replace(mock.model.config, norm_action=False))
        action = raw._first_action({**output, "act_head.gripper": torch.zeros(1, 1, 2, 1)})
    np.testing.assert_allclose(action, [*np.linspace(-1, 1, 6), 0.0], atol=1e-6)


# ---------------------------------------------------------------- sizes and numbers


@pytest.mark.parametrize("name", ["robovlms", "robovlms_mobile"])
def test_the_published_size_has_the_documented_shapes_and_no_weights(samples: tuple[Sample, ...], name: str) -> None:
    abstract = loaded(f"{name}:abstract")
    assert all(parameter.is_meta for parameter in abstract.model.parameters())
    documented = abstract.subject.documented
    assert len([point for point in abstract.clauses if point.stack == "lm" and point.stream == "output"]) == documented["layers"] == 24
    batch = abstract.encode(samples[:1])
    outputs = abstract.forward(batch)
    assert list(outputs["action_hs"].shape) == documented["context"] == [1, 1, 1, 2048]
    assert outputs["image_embeds.static"].shape == (1, 64, 2048)
    captured = abstract.capture(batch, ["vision.23.output", "act_head.input"])
    assert [tuple(values.shape) for values in captured.values()] == [(1, 257, 1024), (1, 1, documented["width"])]
    assert all(values.is_meta for values in captured.values())
    actions = {"robovlms": ("act_head.pose", (1, 1, 10, 6)), "robovlms_mobile": ("act_head.velocities", (1, 1, 10, 2))}
    assert outputs[actions[name][0]].shape == actions[name][1]


def test_the_published_model_has_the_parameters_that_upstream_prints() -> None:
    """RoboVLMs issue 11: 1714.11M, with the embeddings of a robot state that upstream makes and does not use."""
    used = sum(parameter.numel() for parameter in loaded("robovlms:abstract").model.parameters())
    unused = (6 * 2048 + 2048) + 2 * 2048 + (4096 * 2048 + 2048)
    assert used + unused == pytest.approx(1_714_110_000, abs=5_000)


def test_random_weights_follow_their_seed(mock: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        same, other = (subjects.load(subjects.resolve("robovlms:mock", seed=seed), Runtime()) for seed in (0, 1))
    batch = mock.encode(samples)
    assert torch.equal(same.forward(batch)["action_hs"], mock.forward(batch)["action_hs"])
    assert not torch.equal(other.forward(batch)["action_hs"], mock.forward(batch)["action_hs"])


@pytest.mark.parametrize("subject", ["robovlms_tiny:checkpoint", "robovlms:mock"])
def test_half_precision_is_finite_and_close(samples: tuple[Sample, ...], subject: str) -> None:
    whole, half = loaded(subject), loaded(subject, Runtime(dtype="bfloat16"))
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    outputs = [adapter.forward(adapter.encode(samples))["action_hs"].float() for adapter in (whole, half)]
    assert (outputs[0] - outputs[1]).norm() < 0.1 * outputs[0].norm()
    assert half.upstream(frames(half, half.encode(samples), 2))["act_head.pose"].isfinite().all()


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(UsageError, match=r"two attention kernels(.|\n)*eager or sdpa"):
        _robovlms_weights.build(loaded("robovlms:mock").model.config, attention="flash_attention_2", dtype=torch.float32)


# ---------------------------------------------------------------- configuration


def config_of(**changes: Any) -> dict[str, Any]:
    config = json.loads((TINY / "checkpoint/config.json").read_text())
    for name, value in changes.items():
        top, _, inner = name.partition("__")
        (config[top] if inner else config)[inner or top] = value
    return config


KOSMOS = json.loads((TINY / "checkpoint/vlm/config.json").read_text())


def test_window_and_chunk_are_the_top_level_s() -> None:
    built = RoboVLMConfig.from_dict(config_of(act_head__window_size=77, act_head__fwd_pred_next_n=88), KOSMOS, "here")
    assert (built.head.window, built.head.chunk) == (4, 3)
    assert RoboVLMConfig.from_dict(config_of(window_size=5), KOSMOS, "here").head.window == 5


def test_saved_switches_and_dtypes_do_not_matter() -> None:
    saved = {**KOSMOS, "text_config": {**KOSMOS["text_config"], "torch_dtype": "float16", "output_hidden_states": True}}
    built = RoboVLMConfig.from_dict(config_of(), saved, "here").kosmos
    assert not built.text_config.output_hidden_states
    assert built.text_config.embed_dim == 48


WRONG: Mapping[str, tuple[dict[str, Any], type[HarnessError], str]] = {
    "another backbone": ({"robovlm_name": "RoboPaligemma"}, DamagedError, r"not a RoboVLMs checkpoint on Kosmos-2(.|\n)*RoboPaligemma"),
    "another history": ({"act_head__history_type": "pre"}, DamagedError, r"act_head\.history_type is not supported(.|\n)*pre(.|\n)*post"),
    "video history": ({"act_head__history_type": "video"}, DamagedError, r"history_type(.|\n)*video"),
    "discrete actions": ({"act_head__action_space": "discrete"}, DamagedError, r"act_head\.action_space is not supported"),
    "another head": ({"act_head__type": "FCDecoder"}, UnknownNameError, r"no policy head named 'FCDecoder'(.|\n)*LSTMDecoder, MobileVLALSTMDecoder"),
    "a GPT head": ({"act_head__type": "GPTDecoder"}, UnknownNameError, r"LSTMDecoder, MobileVLALSTMDecoder"),
    "a resampler in the head": ({"act_head__down_sample": "resampler"}, UnknownNameError, r"no act_head\.down_sample named 'resampler'"),
    "a vision resampler": ({"use_vision_resampler": True}, DamagedError, r"use_vision_resampler is not supported"),
    "no window": ({"window_size": None}, DamagedError, r"'window_size' is missing"),
    "a window of text": ({"window_size": "4"}, DamagedError, r"'window_size' is missing or malformed"),
    "a window of nothing": ({"window_size": 0}, DamagedError, r"'window_size' is out of range"),
    "no head": ({"act_head": None}, DamagedError, r"'act_head' is missing"),
    "another picture": ({"image_size": 224}, DamagedError, r"image_size is not the tower's(.|\n)*224(.|\n)*42"),
    "two channels": ({"image_mean": [0.5, 0.5]}, DamagedError, r"'image_mean' is malformed"),
    "a range of text": ({"norm_min": "low"}, DamagedError, r"'norm_min' is missing or malformed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_configuration_that_is_not_built_here_is_refused(case: str) -> None:
    changes, kind, match = WRONG[case]
    with pytest.raises(kind, match=match):
        RoboVLMConfig.from_dict(config_of(**changes), KOSMOS, "config.json")


@pytest.mark.parametrize("change", [{"text_config": {"embed_dim": 50}}, {"text_config": {"embed_dim": "48"}}, {"vision_config": 5}], ids=["heads", "type", "table"])
def test_a_vision_language_model_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    merged = {**KOSMOS, **{part: {**KOSMOS[part], **value} if isinstance(value, dict) else value for part, value in change.items()}}
    with pytest.raises(DamagedError):
        RoboVLMConfig.from_dict(config_of(), merged, "config.json")


def test_a_configuration_is_recognised_by_its_model() -> None:
    assert RoboVLMs.recognises(config_of())
    assert not RoboVLMs.recognises({"model_type": "kosmos-2"})
    assert not RoboVLMs.recognises(config_of(robovlm_name="RoboFlamingo"))


# ---------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint."""
    for path in (TINY / "checkpoint").rglob("*"):
        if path.is_file():
            copy = tmp_path / "checkpoint" / path.relative_to(TINY / "checkpoint")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path / "checkpoint"


def load(directory: Path, name: str = "robovlms") -> RoboVLMs:
    return subjects.load(subjects.resolve(f"{name}:checkpoint", checkpoint=directory), Runtime())  # type: ignore[return-value]


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The network's tensors by upstream's names without a prefix."""
    stored = torch.load(checkpoint / "model.pt", weights_only=True)["model_state_dict"]
    return {name.removeprefix("module."): tensor for name, tensor in stored.items()}


def as_lightning(checkpoint: Path, state: Mapping[str, Tensor]) -> None:
    torch.save({"epoch": 1, "state_dict": {f"model.{name}": x for name, x in state.items()}, "optimizer_states": [{"lr": 0.1}]}, checkpoint / "model.pt")


def as_published_repository(checkpoint: Path, state: Mapping[str, Tensor]) -> None:
    """configs/*.json and checkpoints/*.pt, the vision-language model's folder beside them."""
    for folder in ("configs", "checkpoints"):
        (checkpoint / folder).mkdir()
    torch.save({"state_dict": {f"model.{name}": x for name, x in state.items()}}, checkpoint / "checkpoints/kosmos_ph_oxe-pretrain.pt")
    (checkpoint / "model.pt").unlink()
    (checkpoint / "config.json").rename(checkpoint / "configs/kosmos_ph_oxe-pretrain.json")


def with_state_embeddings(checkpoint: Path, state: Mapping[str, Tensor]) -> None:
    as_lightning(checkpoint, {**state, "embed_arm_state.weight": torch.ones(48, 6), "embed_gripper_state.weight": torch.ones(2, 48), "embed_state.bias": torch.ones(48)})


def vlm_under_its_own_name(checkpoint: Path, state: Mapping[str, Tensor]) -> None:
    (checkpoint / "vlm").rename(checkpoint / "kosmos-2-tiny")
    (checkpoint / "config.json").write_text(json.dumps(config_of(vlm__pretrained_model_name_or_path="/home/somebody/.vlms/kosmos-2-tiny")))


LAYOUTS: Mapping[str, Callable[[Path, Mapping[str, Tensor]], object]] = {
    "lightning": as_lightning,
    "published repository": as_published_repository,
    "no prefix": lambda folder, state: torch.save({"state_dict": dict(state)}, folder / "model.pt"),
    "both prefixes": lambda folder, state: torch.save({"model_state_dict": {f"module.model.{name}": x for name, x in state.items()}}, folder / "model.pt"),
    "no output layer": lambda folder, state: as_lightning(folder, {name: x for name, x in state.items() if "lm_head" not in name}),
    "state embeddings": with_state_embeddings,
    "another file named": lambda folder, state: [(folder / "model.pt").rename(folder / "best.pt"), torch.save({}, folder / "optimizer.pt"), (folder / "config.json").write_text(json.dumps(config_of(model_load_path="/runs/best.pt")))],
    "vision-language model under its own name": vlm_under_its_own_name,
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_gives_the_same_model(checkpoint: Path, tiny: RoboVLMs, samples: tuple[Sample, ...], case: str) -> None:
    LAYOUTS[case](checkpoint, tensors(checkpoint))
    adapter = load(checkpoint)
    assert adapter.unlike_checkpoint() == []
    batch = tiny.encode(samples)
    assert torch.equal(adapter.forward(batch)["act_head.pose"], tiny.forward(batch)["act_head.pose"])
    fit = inspection.inspect(checkpoint, family="robovlms").fit if case != "another file named" else None
    assert fit is None or (fit.holds and len(fit.ignored) == {"no output layer": 0, "state embeddings": 4}.get(case, 1))


def test_the_mobile_robot_s_file_loads_with_its_velocity_head(tmp_path: Path, mobile: RoboVLMs, samples: tuple[Sample, ...]) -> None:
    """best_robovlms_mobile_model_epoch_N.pt: a state among the optimizer's and the losses."""
    config = dict(mobile.subject.config)
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm/config.json").write_text(json.dumps(config.pop("vlm_config")))
    (tmp_path / "config.json").write_text(json.dumps(config))
    saved = {"model_state_dict": mobile.model.state_dict(), "optimizer_state_dict": {"state": {}}, "epoch": 1, "val_loss": 0.1, "train_loss": 0.2, "action_types": ["forward"]}
    torch.save(saved, tmp_path / "best_robovlms_mobile_model_epoch_1.pt")
    adapter = load(tmp_path, "robovlms_mobile")
    np.testing.assert_array_equal(adapter.act(samples), mobile.act(samples))


def changed(**changes: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    """Tensors of the checkpoint replaced, or taken out (None), by their first match."""

    def change(folder: Path) -> None:
        state = tensors(folder)
        for ending, new in changes.items():
            name = next(name for name in state if name.endswith(ending.replace("__", ".")))
            if (value := new(state.pop(name))) is not None:
                state[name] = value
        as_lightning(folder, state)

    return change


def added(**names: str) -> Callable[[Path], None]:
    return lambda folder: as_lightning(folder, {**tensors(folder), **{name: torch.zeros(2) for name in names.values()}})


def saved(content: Any) -> Callable[[Path], None]:
    return lambda folder: torch.save(content, folder / "model.pt")


def several(folder: Path) -> None:
    (folder / "other.pt").write_bytes((folder / "model.pt").read_bytes())
    (folder / "config.json").write_text(json.dumps(config_of(model_load_path=None)))


def several_configs(folder: Path) -> None:
    as_published_repository(folder, tensors(folder))
    (folder / "configs/kosmos_ph_bridge.json").write_text("{}")


def another_vlm(folder: Path) -> None:
    (folder / "vlm").rename(folder / "elsewhere")


def nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[0] = torch.nan
    return x


DAMAGES: Mapping[str, tuple[Callable[[Path], object], type[HarnessError], str]] = {
    "a tensor missing": (changed(action_token=lambda x: None), DamagedError, r"1 tensors missing(.|\n)*action_token"),
    "a tensor too many": (added(a="fwd_decoder.weight"), DamagedError, r"1 tensors the network has no place for(.|\n)*fwd_decoder\.weight"),
    "a gripper's head on a mobile robot": (lambda folder: (folder / "config.json").write_text(json.dumps(config_of(act_head__type="MobileVLALSTMDecoder"))), DamagedError, r"8 tensors missing(.|\n)*act_head\.velocities"),
    "another shape": (changed(action_token=lambda x: x[1:]), DamagedError, r"another shape than the configuration(.|\n)*action_token \(47,\), not \(48,\)"),
    "another chunk": (lambda folder: (folder / "config.json").write_text(json.dumps(config_of(fwd_pred_next_n=10))), DamagedError, r"4 tensors of another shape"),
    "NaN": (changed(action_token=nan), DamagedError, r"action_token holds NaN"),
    "infinity in the last head": (changed(gripper__mlp__6__bias=lambda x: x / 0), DamagedError, r"act_head\.gripper\.mlp\.6\.bias holds NaN, infinity"),
    "integers": (changed(action_token=lambda x: x.long()), DamagedError, r"action_token holds(.|\n)*int64"),
    "LoRA adapters": (added(a="backbone.text_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"), DamagedError, r"LoRA adapters(.|\n)*lora_A(.|\n)*merge"),
    "a wrapped base layer": (added(a="backbone.text_model.model.layers.0.self_attn.q_proj.base_layer.weight"), DamagedError, r"LoRA adapters(.|\n)*merge_and_unload"),
    "a wrapped model": (added(a="backbone.base_model.model.text_model.x"), DamagedError, r"LoRA adapters"),
    "one tensor under two prefixes": (added(a="module.action_token"), DamagedError, r"twice under two prefixes(.|\n)*module\.action_token"),
    "no state": (saved({"weights": {}, "epoch": 3}), DamagedError, r"no state of a model(.|\n)*weights, epoch(.|\n)*state_dict or model_state_dict"),
    "a list": (saved([torch.zeros(1)]), DamagedError, r"no state of a model(.|\n)*list"),
    "entries that are no tensors": (saved({"state_dict": {"model.action_token": 3}}), DamagedError, r"1 entries are no tensors(.|\n)*model\.action_token"),
    "an object": (saved({"state_dict": {}, "hyper_parameters": Recording()}), DamagedError, r"the file holds \S*Recording, which could run code(.|\n)*torch\.save"),
    "a pickle of old": (lambda folder: torch.save({"state_dict": {}}, folder / "model.pt", _use_new_zipfile_serialization=False), DamagedError, r"torch\.save it with torch 1\.6"),
    "a truncated file": (lambda folder: (folder / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:-100]), DamagedError, r"truncated"),
    "a git-lfs pointer": (lambda folder: (folder / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\n"), DamagedError, r"git-lfs pointer(.|\n)*git lfs pull"),
    "no weights": (lambda folder: (folder / "model.pt").unlink(), MissingError, r"holds no weights"),
    "weights elsewhere": (lambda folder: [(folder / "deep").mkdir(), (folder / "model.pt").rename(folder / "deep/model.pt")], MissingError, r"no weights(.|\n)*one \.pt"),
    "several weights": (several, DamagedError, r"2 files for its weights(.|\n)*model\.pt, other\.pt(.|\n)*model_load_path"),
    "several configurations": (several_configs, DamagedError, r"2 files for its configuration(.|\n)*kosmos_ph_bridge(.|\n)*keep one"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), MissingError, r"no configuration(.|\n)*config\.json, or one file in configs/"),
    "no vision-language model": (another_vlm, MissingError, r"vision-language model's configuration is not there(.|\n)*kosmos-2-patch14-224(.|\n)*weights are not needed"),
    "another family": (lambda folder: (folder / "config.json").write_text('{"model_type": "openvla"}'), DamagedError, r"'robovlm_name' is missing"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_checkpoint_is_refused_before_it_is_used(checkpoint: Path, case: str) -> None:
    spoil, kind, match = DAMAGES[case]
    spoil(checkpoint)
    with pytest.raises(kind, match=match):
        load(checkpoint)


def test_an_object_is_named_and_never_made(checkpoint: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (checkpoint / "touched",))  # type: ignore[return-value]

    torch.save({"state_dict": {}, "hyper_parameters": Trap()}, checkpoint / "model.pt")
    with pytest.raises(DamagedError, match="could run code"):
        load(checkpoint)
    assert not (checkpoint / "touched").exists()


def test_the_published_vision_language_model_needs_no_folder(checkpoint: Path) -> None:
    """Its sizes are transformers' defaults; here the weights of another size show that they were taken."""
    another_vlm(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps(config_of(image_size=224, vlm__pretrained_model_name_or_path="https://huggingface.co/microsoft/kosmos-2-patch14-224")))
    assert _robovlms_weights.load_config(checkpoint).width == 2048
    with pytest.raises(DamagedError, match=r"missing from the checkpoint(.|\n)*layers"):
        load(checkpoint)


def test_a_checkpoint_without_weights_is_described_by_the_published_names(checkpoint: Path) -> None:
    (checkpoint / "model.pt").unlink()
    names = RoboVLMs.anatomy(checkpoint).shapes
    assert names["model.action_token"] == (48,)
    assert all(name.startswith("model.") for name in names)


@pytest.mark.parametrize("name", ["robovlms", "robovlms_mobile", "robovlms_tiny"])
def test_the_card_names_the_family_and_its_fields(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        card = model_card(name)
    assert card.family == "robovlms"
    assert {"instruction", "images", "final_norm", "hidden_states", "actions"} <= set(card.traits)
    assert ("several_images" in card.traits) == (name == "robovlms_tiny")
