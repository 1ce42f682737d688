"""T5's encoder against transformers' own loading and forward, and its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, T5ForConditionalGeneration

from harness import subjects
from harness.adapters._weights import random_state
from harness.adapters.t5 import T5
from harness.errors import DamagedError, MissingError
from harness.extract import pooled
from harness.types import Point, Runtime, Sample, Subject, Weights

SAMPLES = [Sample("short", "go"), Sample("long", "put the red cup on the plate near the stove"), Sample("middle", "open the drawer")]
FINAL = Point("lm", "final_norm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:  # noqa: ANN001
    """A tiny T5 as published: encoder, decoder and output layer in one file, and a tokenizer that appends the end token."""
    path = tmp_path_factory.mktemp("t5")
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    config = T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = T5ForConditionalGeneration._from_config(config, attn_implementation="eager", dtype=torch.float32)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items() if "embed_tokens" not in name}
    model.load_state_dict(random_state(shapes, seed=1, dtype=torch.float32), strict=False)
    model.tie_weights()
    model.save_pretrained(path)
    head = {"lm_head.weight": torch.ones(64, 32)}  # version 1.1 has an output layer of its own
    save_file(load_file(path / "model.safetensors") | head, path / "model.safetensors", metadata={"format": "pt"})
    letters = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, **{chr(97 + i): 3 + i for i in range(26)}}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(path)
    return path


def loaded(directory: Path, runtime: Runtime = Runtime()) -> T5:
    return T5.load(Subject("test", "checkpoint", "t5", {}, Weights("directory", "0", directory)), runtime)


@pytest.fixture(scope="module")
def adapter(folder) -> T5:  # noqa: ANN001
    return loaded(folder)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_states_are_the_stock_encoders(folder, attention) -> None:  # noqa: ANN001
    adapter = loaded(folder, Runtime(attention=attention))
    stock = T5EncoderModel.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()
    batch = adapter.encode(SAMPLES)
    valid = batch.inputs["attention_mask"].bool()
    with torch.no_grad():
        states = stock(**batch.inputs, output_hidden_states=True).hidden_states
    values = adapter.capture(batch, adapter.clauses)
    assert len(values) == 1 + 2 * 3 + 1
    for point, clause in adapter.clauses.items():
        if clause.hidden_states_index is not None:
            torch.testing.assert_close(values[point][valid], states[clause.hidden_states_index][valid], rtol=0, atol=1e-6, msg=str(point))


def test_the_feature_is_the_mean_of_one_prompt_alone_end_token_included(folder, adapter) -> None:  # noqa: ANN001
    """As document 001's labels are taken: `last_hidden_state.mean(dim=1)`, one unpadded prompt at a time."""
    stock = T5EncoderModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        labels = [stock(torch.tensor([adapter.tokenizer(sample.instruction)["input_ids"]])).last_hidden_state.mean(1) for sample in SAMPLES]
    np.testing.assert_allclose(pooled(adapter, SAMPLES, [FINAL])[FINAL], torch.cat(labels).numpy(), atol=1e-5)
    assert adapter.encode(SAMPLES[:1]).inputs["input_ids"][0, -1] == 1


def test_float16_keeps_in_float32_what_transformers_keeps(folder) -> None:  # noqa: ANN001
    adapter = loaded(folder, Runtime(dtype="float16"))
    stock = T5EncoderModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float16)
    assert {name: x.dtype for name, x in adapter.model.named_parameters()} == {name: x.dtype for name, x in stock.named_parameters()}
    assert {x.dtype for x in adapter.model.parameters()} == {torch.float16, torch.float32}
    assert np.isfinite(pooled(adapter, SAMPLES, [FINAL])[FINAL]).all()


def test_bfloat16_stays_close(folder, adapter) -> None:  # noqa: ANN001
    rounded, whole = (pooled(each, SAMPLES, [FINAL])[FINAL] for each in (loaded(folder, Runtime(dtype="bfloat16")), adapter))
    assert np.abs(rounded - whole).max() < 0.1 * np.abs(whole).max()


def test_the_final_norm_has_no_mean_and_no_bias(adapter) -> None:  # noqa: ANN001
    norm = adapter.final_norm(Point("lm", "final_norm"))
    assert (norm.kind, norm.bias, norm.eps) == ("rms", None, 1e-6)


def _lost(state: dict) -> str:
    del state[name := "encoder.block.1.layer.0.SelfAttention.q.weight"]
    return name


def _left_over(state: dict) -> str:
    state[name := "encoder.block.9.layer.0.SelfAttention.q.weight"] = torch.ones(2)
    return name


def _misshapen(state: dict) -> str:
    state[name := "encoder.final_layer_norm.weight"] = torch.ones(5)
    return name


def _spoiled(state: dict) -> str:
    state[name := "shared.weight"] = state["shared.weight"] * float("inf")
    return name


def _contradictory(state: dict) -> str:
    state[name := "encoder.embed_tokens.weight"] = state["shared.weight"] + 1
    return name


@pytest.mark.parametrize("damage", [_lost, _left_over, _misshapen, _spoiled, _contradictory])
def test_a_damaged_encoder_is_refused_by_the_tensors_name(folder, tmp_path, damage) -> None:  # noqa: ANN001
    shutil.copytree(folder, tmp_path / "t5")
    state = load_file(folder / "model.safetensors")
    name = damage(state)
    save_file(state, tmp_path / "t5/model.safetensors")
    with pytest.raises(DamagedError, match=name.replace(".", r"\.")):
        loaded(tmp_path / "t5")


def test_the_decoder_does_not_matter(folder, adapter, tmp_path) -> None:  # noqa: ANN001
    """Nor does a second name for the embedding."""
    shutil.copytree(folder, tmp_path / "t5")
    state = load_file(folder / "model.safetensors")
    assert any(name.startswith("decoder.") for name in state)
    encoder = {name: x for name, x in state.items() if not name.startswith(("decoder.", "lm_head."))}
    save_file(encoder | {"encoder.embed_tokens.weight": state["shared.weight"].clone()}, tmp_path / "t5/model.safetensors")
    other = loaded(tmp_path / "t5")
    one, two = (each.capture(each.encode(SAMPLES), [FINAL])[FINAL] for each in (adapter, other))
    assert torch.equal(one, two)
    assert other.unlike_checkpoint() == []


def test_the_anatomy_is_the_encoder(folder) -> None:  # noqa: ANN001
    import re

    state, anatomy = load_file(folder / "model.safetensors"), T5.anatomy(folder)
    kept = {name: tuple(x.shape) for name, x in state.items() if not re.match(anatomy.ignored, name)}
    assert anatomy.shapes == kept
    assert {name.partition(".")[0] for name in state.keys() - kept.keys()} == {"decoder", "lm_head"}


def test_a_changed_parameter_is_told(folder) -> None:  # noqa: ANN001
    adapter = loaded(folder)
    assert adapter.unlike_checkpoint() == []
    adapter.model.shared.weight.data += 1
    assert adapter.unlike_checkpoint() == ["shared.weight"]


def test_another_family_and_a_lost_tokenizer_are_refused(folder, tmp_path) -> None:  # noqa: ANN001
    shutil.copytree(folder, tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "t5/config.json").write_text(json.dumps({**config, "model_type": "mt5"}))
    with pytest.raises(DamagedError, match="mt5"):
        loaded(tmp_path / "t5")
    adapter = subjects.load(subjects.resolve("t5_small:abstract"), Runtime())
    adapter.subject = Subject("test", "checkpoint", "t5", {}, Weights("directory", "0", tmp_path))
    with pytest.raises(MissingError, match="tokenizer"):
        adapter.encode(SAMPLES)


def test_the_published_sizes_run_without_weights() -> None:
    subject = subjects.resolve("t5_small:abstract")
    adapter = subjects.load(subject, Runtime())
    values = adapter.capture(adapter.encode(SAMPLES), adapter.clauses)
    assert values[FINAL].is_meta
    assert values[FINAL].shape[2] == subject.documented["width"]
    assert sum(point.stream == "output" for point in values) == subject.documented["layers"]
    assert sum(x.numel() for x in adapter.model.parameters()) == 35_330_816  # the encoder's share of T5-small's 60.5 million
