"""Text-only models: points, padding, strict loading, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from harness import subjects
from harness.adapters import Adapter
from harness.adapters._words import word_ids
from harness.adapters.language import Language
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.types import Point, Runtime, Sample, Subject, Weights

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = [Sample("long", "open the middle drawer of the cabinet"), Sample("short", "stop"), Sample("mid", "turn on the stove")]
WORDS = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "open", "the", "drawer", "stop"])}
REMOVED = "layers.1.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def toy(runtime: Runtime = Runtime()) -> Adapter:  # noqa: B008 - frozen
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return subjects.load(subjects.resolve("toy_lm:mock"), runtime)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return toy()


def test_the_points_are_embedding_blocks_and_final_norm_at_the_documented_sizes(adapter: Adapter) -> None:
    blocks = [f"lm.{layer:02d}.{side}" for layer in range(4) for side in ("input", "output")]
    assert [str(point) for point in adapter.clauses] == ["lm.embedding", *blocks, "lm.final_norm"]
    assert {clause.width for clause in adapter.clauses.values()} == {adapter.subject.documented["width"]}
    assert [str(point) for point, clause in adapter.clauses.items() if clause.norm == "final"] == ["lm.final_norm"]
    captured = adapter.capture(adapter.encode(SAMPLES), adapter.clauses)
    assert {tuple(values.shape) for values in captured.values()} == {(3, 7, 48)}
    assert all(values.dtype == torch.float32 and torch.isfinite(values).all() for values in captured.values())


def test_every_point_is_the_framework_s_entry_that_its_clause_names(adapter: Adapter) -> None:
    batch = adapter.encode(SAMPLES)
    captured, known = adapter.capture(batch, adapter.clauses), adapter.framework_tuple(batch, "lm")
    indexed = {point: clause.hidden_states_index for point, clause in adapter.clauses.items() if clause.hidden_states_index is not None}
    assert set(indexed.values()) == set(range(len(known)))
    for point, index in indexed.items():
        assert torch.allclose(captured[point][batch.tokens["lm"].mask], known[index][batch.tokens["lm"].mask], rtol=1e-6, atol=1e-6), point


def test_samples_are_padded_on_the_right_and_masked(adapter: Adapter) -> None:
    batch = adapter.encode(SAMPLES)
    lengths = [7, 1, 4]
    assert batch.sample_ids == ("long", "short", "mid")
    tokens = batch.tokens["lm"]
    for row, (sample, length) in enumerate(zip(SAMPLES, lengths, strict=True)):
        assert tokens.mask[row].tolist() == [True] * length + [False] * (7 - length)
        assert batch.inputs["attention_mask"][row].tolist() == [1] * length + [0] * (7 - length)
        assert batch.inputs["input_ids"][row].tolist() == [*word_ids(sample.instruction, 512), *[0] * (7 - length)]
    assert torch.equal(tokens.spans["text"], tokens.mask)
    assert torch.equal(tokens.spans["padding"], ~tokens.mask)


def test_stand_in_ids_are_stable_and_leave_the_special_ones_alone() -> None:
    assert word_ids("open the drawer", 512) == word_ids("open  the\tdrawer", 512)
    assert word_ids("open", 512) != word_ids("shut", 512)
    assert min(word_ids(" ".join(f"w{number}" for number in range(500)), 16)) == 3
    assert max(word_ids(" ".join(f"w{number}" for number in range(500)), 16)) == 15


@pytest.mark.parametrize("instruction", ["", "  ", None])
def test_a_sample_without_instruction_is_named(adapter: Adapter, instruction: str | None) -> None:
    with pytest.raises(UsageError, match=r"sample 'empty' has no instruction(.|\n)*toy_lm:mock"):
        adapter.encode([*SAMPLES, Sample("empty", instruction)])  # type: ignore[arg-type]


@pytest.mark.parametrize(("asked", "found"), [("lm.-1.output", "lm.03.output"), ("lm.-4.input", "lm.00.input"), ("lm.2.output", "lm.02.output"), ("lm.final_norm", "lm.final_norm")])
def test_layers_may_be_counted_from_the_end(adapter: Adapter, asked: str, found: str) -> None:
    assert str(adapter.resolve(asked)) == found


@pytest.mark.parametrize("asked", ["lm.04.output", "lm.-5.output", "vision.00.output", "lm.norm"])
def test_an_unknown_point_names_the_nearest(adapter: Adapter, asked: str) -> None:
    with pytest.raises(UnknownNameError, match="no extraction point named .*; the nearest is 'lm"):
        adapter.resolve(asked)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_weights_give_float32_features_near_those_of_float32(adapter: Adapter, dtype: str) -> None:
    half = toy(Runtime(dtype=dtype))  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in half.model.parameters()} == {getattr(torch, dtype)}
    point = Point("lm", "output", 1)
    found, exact = (each.capture(each.encode(SAMPLES[:1]), [point])[point] for each in (half, adapter))
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.1 * exact.abs().max()


def test_the_attention_kernel_is_the_one_asked_for(adapter: Adapter) -> None:
    assert adapter.model.config._attn_implementation == "eager"
    assert toy(Runtime(attention="sdpa")).model.config._attn_implementation == "sdpa"


def test_random_weights_repeat_by_seed_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (subjects.load(subjects.resolve("toy_lm:mock", seed=seed), Runtime()).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.mlp.up_proj.weight"], other["layers.0.mlp.up_proj.weight"])


def of(folder: Path) -> Subject:
    return Subject("saved", "checkpoint", "language", {}, Weights("directory", "digest", folder))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny Llama as transformers saves it, with a tokenizer of six words."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=6, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=None)
    LlamaModel(config).save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_checkpoint_loads_with_its_own_tokenizer(saved: Path) -> None:
    adapter = Language.load(of(saved), Runtime())
    assert adapter.encode([Sample("s", "open the drawer"), Sample("t", "stop")]).inputs["input_ids"].tolist() == [[2, 3, 4], [5, 0, 0]]
    assert len(adapter.clauses) == 6
    assert adapter.unlike_checkpoint() == []
    with torch.no_grad():
        adapter.model.norm.weight.add_(1)
    assert adapter.unlike_checkpoint() == ["norm.weight"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop(REMOVED), rf"does not fit the model(.|\n)*missing_keys.*{REMOVED}"),
        (lambda state: state.update(extra=torch.ones(2)), r"does not fit the model(.|\n)*unexpected_keys.*extra"),
        (lambda state: state.update({REMOVED: torch.ones(3, 4)}), r"cannot load the checkpoint"),
        (lambda state: state.update({REMOVED: torch.full_like(state[REMOVED], torch.nan)}), rf"NaN or infinity(.|\n)*{REMOVED}"),
    ],
    ids=["removed", "added", "misshapen", "not finite"],
)
def test_a_checkpoint_whose_tensors_are_not_the_model_s_is_refused(saved: Path, change: Callable[[dict], object], match: str) -> None:
    state = load_file(saved / "model.safetensors")
    change(state)
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DamagedError, match=match):
        Language.load(of(saved), Runtime())


def test_an_encoder_without_a_last_norm_has_no_such_point(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    adapter = Language.load(of(tmp_path), Runtime())
    assert [str(point) for point in adapter.clauses] == ["lm.embedding", "lm.00.input", "lm.00.output", "lm.01.input", "lm.01.output"]
    assert adapter.stacks() == ()


def test_an_architecture_without_a_layout_is_refused() -> None:
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 16, "bos_token_id": 1, "eos_token_id": 1}
    with pytest.raises(UnknownNameError, match=r"no language architecture named 'gpt2'(.|\n)*expected bert, llama"):
        Language.load(Subject("other", "mock", "language", config, Weights("random", "digest", seed=0)), Runtime())


def test_a_checkpoint_without_a_tokenizer_cannot_encode(saved: Path) -> None:
    for path in saved.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(MissingError, match="no tokenizer"):
        Language.load(of(saved), Runtime()).encode(SAMPLES)


def test_no_samples_are_refused(adapter: Adapter) -> None:
    with pytest.raises(UsageError, match="no sample to encode"):
        adapter.encode([])
