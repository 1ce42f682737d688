"""The OpenVLA adapter: prompt, spliced sequence, points, and greedy actions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import readers, subjects
from harness.adapters._prismatic_actions import decode_actions
from harness.adapters.openvla import BOS, PROMPTS, SPACE, OpenVLA
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Batch, Point, Runtime, Sample, Weights

ROOT = Path(__file__).resolve().parent.parent
ACTIONS = json.loads((ROOT / "fixtures/data/openvla_tiny/actions.json").read_text(encoding="utf-8"))


def loaded(subject: str) -> OpenVLA:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return subjects.load(subjects.resolve(subject), Runtime())  # type: ignore[return-value]


@pytest.fixture(scope="module")
def tiny() -> OpenVLA:
    """The tiny checkpoint: published format, vocabulary of 243."""
    return loaded("openvla_tiny:checkpoint")


@pytest.fixture(scope="module")
def mock() -> OpenVLA:
    """Tiny sizes with the published vocabulary."""
    return loaded("openvla:mock")


@pytest.fixture(scope="module")
def abstract() -> OpenVLA:
    return loaded("openvla:abstract")


@pytest.fixture(scope="module")
def samples() -> Iterator[tuple[Sample, ...]]:
    """Two photographs with instructions of different length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = readers.read("photos").samples
    short, long = (choose(found, key=lambda sample: len(sample.instruction.split())) for choose in (min, max))
    yield short, long


class Recording:
    """A tokenizer that remembers the prompts it was given and answers with fixed ids."""

    def __init__(self, *ids: int) -> None:
        self.ids, self.prompts = list(ids), []

    def __call__(self, prompt: str) -> dict[str, list[int]]:
        self.prompts.append(prompt)
        return {"input_ids": list(self.ids)}


@pytest.mark.parametrize(
    ("style", "prompt"),
    [
        ("openvla", "In: What action should the robot take to open the top drawer?\nOut:"),
        (
            "v01",
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the "
            "user's questions. USER: What action should the robot take to open the top drawer? ASSISTANT:",
        ),
    ],
)
def test_the_prompt_is_upstream_s_with_the_instruction_in_lower_case(mock: OpenVLA, samples: tuple[Sample, ...], style: str, prompt: str) -> None:
    adapter = OpenVLA(replace(mock.subject, options={"prompt": style}), mock.runtime, mock.model, mock.clauses)
    adapter.__dict__["tokenizer"] = Recording(1, 5, 6)
    adapter.encode([replace(samples[0], instruction="Open the TOP drawer")])
    assert adapter.tokenizer.prompts == [prompt]


def test_the_default_prompt_is_openvla_s(mock: OpenVLA, samples: tuple[Sample, ...]) -> None:
    asked = OpenVLA(replace(mock.subject, options={"prompt": "openvla"}), mock.runtime, mock.model, mock.clauses)
    other = OpenVLA(replace(mock.subject, options={"prompt": "v01"}), mock.runtime, mock.model, mock.clauses)
    ids = [adapter.encode(samples).inputs["input_ids"] for adapter in (mock, asked, other)]
    assert torch.equal(ids[0], ids[1])
    assert ids[2].shape[1] > ids[0].shape[1]


def test_an_unknown_prompt_style_names_the_nearest_and_the_field(mock: OpenVLA, samples: tuple[Sample, ...]) -> None:
    adapter = OpenVLA(replace(mock.subject, options={"prompt": "v1"}), mock.runtime, mock.model, mock.clauses)
    with pytest.raises(UnknownNameError, match=r"no prompt style named 'v1'; the nearest is 'v01'(.|\n)*card openvla, field options\.prompt"):
        adapter.encode(samples)


@pytest.mark.parametrize("ids", [(BOS, 5, 6), (BOS, 5, 6, SPACE)], ids=["without", "with"])
def test_the_lone_space_ends_the_prompt_once(mock: OpenVLA, samples: tuple[Sample, ...], ids: tuple[int, ...]) -> None:
    adapter = OpenVLA(mock.subject, mock.runtime, mock.model, mock.clauses)
    adapter.__dict__["tokenizer"] = Recording(*ids)
    batch = adapter.encode(samples[:1])
    assert batch.inputs["input_ids"].tolist() == [[BOS, 5, 6, SPACE]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1]]


def test_stand_in_ids_have_the_shape_of_a_prompt(mock: OpenVLA, tiny: OpenVLA, samples: tuple[Sample, ...]) -> None:
    for adapter, space in ((mock, SPACE), (tiny, BOS + 1)):
        batch = adapter.encode(samples)
        config = adapter.model.config
        for ids, valid in zip(batch.inputs["input_ids"], batch.inputs["attention_mask"].bool(), strict=True):
            words = ids[valid].tolist()
            assert (words[0], words[-1]) == (BOS, space)
            assert max(words[1:-1]) < config.text.vocab_size - config.pad_to_multiple_of - config.n_action_bins  # no action token
            assert set(ids[~valid].tolist()) <= {config.pad_token_id}


@pytest.fixture(params=["openvla_tiny:checkpoint", "openvla:mock"])
def adapter(request: pytest.FixtureRequest, tiny: OpenVLA, mock: OpenVLA) -> OpenVLA:
    return tiny if request.param == "openvla_tiny:checkpoint" else mock


def test_spans_are_disjoint_and_with_the_padding_cover_each_sequence(adapter: OpenVLA, samples: tuple[Sample, ...]) -> None:
    batch = adapter.encode(samples)
    assert set(batch.tokens) == {"dinov2", "siglip", "projector", "text", "lm"}
    for tokens in batch.tokens.values():
        assert (sum(span.long() for span in tokens.spans.values()) == 1).all()
        assert torch.equal(tokens.spans["padding"], ~tokens.mask)


def test_patches_are_spliced_in_after_the_first_token(adapter: OpenVLA, samples: tuple[Sample, ...]) -> None:
    batch = adapter.encode(samples)
    text, lm = batch.tokens["text"], batch.tokens["lm"]
    patches = adapter.model.config.towers[0].patches
    assert lm.mask.shape[1] == text.mask.shape[1] + patches
    assert lm.mask.sum(1).tolist() == [count + patches for count in text.mask.sum(1).tolist()]
    assert text.mask.sum(1).tolist()[0] < text.mask.shape[1]  # the shorter prompt is padded, on the right
    assert lm.mask.long().diff(dim=1).max() <= 0
    positions = [row.nonzero().flatten().tolist() for row in lm.spans["image.0"]]
    assert positions == [list(range(1, 1 + patches))] * 2
    captured = adapter.capture(batch, ["text.embedding", "projector.output", "lm.embedding"])
    embedding = captured[Point("lm", "embedding")]
    assert torch.equal(embedding[:, 1 : 1 + patches], captured[Point("projector", "output")])
    assert torch.equal(torch.cat([embedding[:, :1], embedding[:, 1 + patches :]], 1), captured[Point("text", "embedding")])


def test_every_point_has_the_declared_width_and_the_length_of_its_stack(adapter: OpenVLA, samples: tuple[Sample, ...]) -> None:
    batch = adapter.encode(samples)
    for point, values in adapter.capture(batch, adapter.clauses).items():
        assert values.shape == (2, batch.tokens[point.stack].mask.shape[1], adapter.clauses[point].width), point
        assert values.dtype == torch.float32


@pytest.mark.parametrize(("sample", "what"), [(Sample("blind", "open the drawer"), "image"), (Sample("mute", "", {"primary": np.zeros((8, 8, 3), np.uint8)}), "instruction")])
def test_a_sample_that_lacks_an_input_is_named(adapter: OpenVLA, sample: Sample, what: str) -> None:
    with pytest.raises(UsageError, match=rf"sample '{sample.id}' has no {what}(.|\n)*{adapter.subject.id}"):
        adapter.encode([sample])


def greedy(adapter: OpenVLA, batch: Batch, length: int) -> list[int]:
    """Greedy tokens by one whole forward for each, out of `batch()`."""
    ids, found = batch.inputs["input_ids"], []
    for _ in range(length):
        logits = adapter.forward(adapter.batch({**batch.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}))["logits"]
        found.append(int(logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([[found[-1]]])], 1)
    return found


@pytest.mark.parametrize("key", ["toy_orig", "toy_other"])
@pytest.mark.parametrize("index", [0, 1])
def test_an_action_is_seven_greedy_tokens_and_what_they_decode_to(tiny: OpenVLA, samples: tuple[Sample, ...], key: str, index: int) -> None:
    batch = tiny.encode([samples[index]])
    action = tiny.predict(batch, key)
    assert len(action.token_ids) == 7
    assert list(action.token_ids) == greedy(tiny, batch, 7)
    np.testing.assert_array_equal(action.values, decode_actions(action.token_ids, tiny.model.config, key))
    assert batch.inputs["input_ids"].shape == tiny.encode([samples[index]]).inputs["input_ids"].shape  # the batch is not grown


def test_the_image_moves_the_logits_of_the_first_action_token(tiny: OpenVLA, samples: tuple[Sample, ...]) -> None:
    other = replace(samples[0], images=samples[1].images)
    logits = [tiny.forward(tiny.encode([sample]))["logits"][0, -1] for sample in (samples[0], other)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_the_only_dataset_needs_no_key(mock: OpenVLA, samples: tuple[Sample, ...]) -> None:
    batch = mock.encode(samples[:1])
    assert mock.predict(batch).token_ids == mock.predict(batch, "toy").token_ids


def test_two_samples_are_refused(tiny: OpenVLA, samples: tuple[Sample, ...]) -> None:
    with pytest.raises(UsageError, match=r"one sample at a time(.|\n)*2 samples"):
        tiny.predict(tiny.encode(samples), "toy_orig")


@pytest.mark.parametrize(
    ("key", "kind", "match"),
    [(None, UsageError, r"which dataset's action statistics(.|\n)*toy_orig, toy_other"), ("toy_org", UnknownNameError, "no unnorm_key named 'toy_org'; the nearest is 'toy_orig'")],
    ids=["ambiguous", "unknown"],
)
def test_the_dataset_of_the_action_must_be_named_and_known(tiny: OpenVLA, samples: tuple[Sample, ...], key: str | None, kind: type[UsageError], match: str) -> None:
    with pytest.raises(kind, match=match):
        tiny.predict(tiny.encode(samples[:1]), key)


@pytest.mark.parametrize("golden", ACTIONS["cases"], ids=lambda golden: f"{golden['unnorm_key']}-{golden['token_ids'][0]}")
def test_tokens_decode_to_upstream_s_actions(tiny: OpenVLA, golden: dict[str, Any]) -> None:
    np.testing.assert_allclose(tiny.decode(golden["token_ids"], golden["unnorm_key"]), golden["actions"], rtol=0, atol=1e-12)
    shifted = tiny.decode([token - 1 for token in golden["token_ids"]], golden["unnorm_key"])
    assert np.abs(shifted - golden["actions"]).max() > 0.01


@pytest.mark.parametrize("length", [0, 6, 8])
def test_another_number_of_tokens_is_refused(tiny: OpenVLA, length: int) -> None:
    with pytest.raises(UsageError, match=rf"number of action tokens is wrong(.|\n)*got      {length}(.|\n)*expected 7"):
        tiny.decode([200] * length, "toy_orig")


def test_the_published_size_has_the_documented_shapes_and_no_weights(abstract: OpenVLA, samples: tuple[Sample, ...]) -> None:
    assert all(parameter.is_meta for parameter in abstract.model.parameters())
    assert sum(parameter.numel() for parameter in abstract.model.parameters()) > 7e9
    documented = abstract.subject.documented
    layers = [point for point in abstract.clauses if point.stack == "lm" and point.stream == "output"]
    assert len(layers) == documented["layers"] == 32
    batch = abstract.encode(samples)
    captured = abstract.capture(batch, [layers[-1], "lm.final_norm", "projector.input", "projector.output"])
    text = batch.tokens["text"].mask.shape[1]
    assert {str(point): tuple(values.shape) for point, values in captured.items()} == {
        "lm.31.output": (2, text + documented["patches"], documented["width"]),
        "lm.final_norm": (2, text + documented["patches"], documented["width"]),
        "projector.input": (2, documented["patches"], 2176),
        "projector.output": (2, documented["patches"], documented["width"]),
    }
    assert all(values.is_meta for values in captured.values())


@pytest.mark.parametrize("vocabulary", ["published", "tiny"])
def test_only_a_tiny_vocabulary_may_do_without_its_tokenizer(tmp_path: Path, tiny: OpenVLA, mock: OpenVLA, samples: tuple[Sample, ...], vocabulary: str) -> None:
    like = mock if vocabulary == "published" else tiny
    adapter = OpenVLA(replace(like.subject, weights=Weights("directory", "digest", tmp_path)), like.runtime, like.model, like.clauses)
    if vocabulary == "tiny":
        assert adapter.tokenizer is None
    else:
        with pytest.raises(MissingError, match=r"the checkpoint has no tokenizer(.|\n)*tokenizer\.json(.|\n)*published repository"):
            adapter.encode(samples)


def test_every_prompt_style_has_one_place_for_the_instruction() -> None:
    assert all(prompt.count("{}") == 1 for prompt in PROMPTS.values())
