"""StarVLA against transformers' own path: its processor, its checkpoint loading, its position ids, its hidden states."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil, Qwen3VLProcessor

from harness import subjects
from harness.adapters._starvla import FAMILIES, build_config
from harness.adapters._starvla_weights import HEAD, native_shapes
from harness.adapters._weights import random_state
from harness.adapters.starvla import StarVLA
from harness.errors import DamagedError, MissingError, UsageError
from harness.extract import pooled
from harness.types import Point, Runtime, Sample, Subject, Weights

CARDS = {"qwen2_5_vl": "starvla_qwen25", "qwen3_vl": "starvla_qwen3"}
PROCESSORS = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
FINAL = Point("lm", "final_norm")


def samples(count: int = 3, size: tuple[int, int] = (120, 160)) -> list[Sample]:
    texts = ["open the drawer", "put the red cup on the plate near the stove", "go"]
    rng = np.random.default_rng(0)
    shape = (*size, 3)
    return [Sample(f"s{i}", texts[i], {name: rng.integers(0, 256, shape, np.uint8) for name in ("primary", "wrist")}) for i in range(count)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and Qwen's special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", *SPECIAL.values()]}
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, chat_template=TEMPLATE, **special)


def image_processor(config) -> Qwen2VLImageProcessorPil:  # noqa: ANN001
    vision = config.vision_config
    shape = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
    return Qwen2VLImageProcessorPil(**shape, image_mean=[0.4] * 3, image_std=[0.3] * 3)


@pytest.fixture(scope="module", params=CARDS)
def folder(request, tmp_path_factory) -> Path:  # noqa: ANN001
    """A tiny checkpoint as transformers saves it: weights, configuration, tokenizer, image processing."""
    kind, words = request.param, tokenizer()
    mock = subjects.resolve(f"{CARDS[kind]}:mock").config
    config = build_config({**mock, **{name: words.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}}, "test")
    model = FAMILIES[kind].model._from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.load_state_dict(random_state(native_shapes(config), seed=1, dtype=torch.float32), strict=False)
    model.tie_weights()
    path = tmp_path_factory.mktemp(kind)
    for part in (model, words, image_processor(config)):
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def kind(folder) -> str:  # noqa: ANN001
    return json.loads((folder / "config.json").read_text())["model_type"]


def loaded(directory: Path, runtime: Runtime = Runtime(), **options: object) -> StarVLA:
    options = {"cameras": ["primary", "wrist"], "input_size": 112, **options}
    return StarVLA.load(Subject("test", "checkpoint", "starvla", {}, Weights("directory", "0", directory), options), runtime)


@pytest.fixture(scope="module")
def adapter(folder) -> StarVLA:  # noqa: ANN001
    return loaded(folder)


def processed(folder: Path, kind: str, chosen: list[Sample], side: str):  # noqa: ANN201
    """The stock processor's inputs. Its constructor demands a video processor, which demands torchvision; its call does not."""
    from PIL import Image

    words = tokenizer()
    words.padding_side = side
    processor = PROCESSORS[kind].__new__(PROCESSORS[kind])
    processor.tokenizer, processor.image_processor = words, Qwen2VLImageProcessorPil.from_pretrained(folder)
    processor.video_processor = processor.feature_extractor = processor.chat_template = None
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    processor.image_token_id, processor.video_token_id = words.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    contents = [[{"type": "image"}, {"type": "image"}, {"type": "text", "text": sample.instruction}] for sample in chosen]
    chats = [[{"role": "user", "content": each}] for each in contents]
    texts = [words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    images = [Image.fromarray(sample.images[name]).resize((112, 112)) for sample in chosen for name in ("primary", "wrist")]
    return processor(text=texts, images=images, padding=True, return_tensors="pt")


@pytest.fixture(scope="module")
def stock(folder, kind):  # noqa: ANN001, ANN201
    return FAMILIES[kind].model.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def test_inputs_are_the_stock_processors(folder, kind, adapter) -> None:  # noqa: ANN001
    expected, batch = processed(folder, kind, samples(), "right"), adapter.encode(samples())
    for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw"):
        assert torch.equal(batch.inputs[name], expected[name]), name
    assert torch.equal(batch.inputs["image_mask"].int(), expected["mm_token_type_ids"])


@pytest.mark.parametrize("side", ["right", "left"])
def test_states_are_the_stock_models(folder, kind, adapter, stock, side) -> None:  # noqa: ANN001
    """Every entry of the stock tuple, with stock loading, stock masks and stock position ids, on rows padded on either side."""
    inputs = processed(folder, kind, samples(), side)
    with torch.no_grad():
        states = stock(**inputs, output_hidden_states=True).hidden_states
    values, valid = adapter.capture(adapter.batch(inputs), adapter.clauses), inputs["attention_mask"].bool()
    indexed = {point: clause.hidden_states_index for point, clause in adapter.clauses.items() if clause.hidden_states_index is not None}
    assert {*indexed.values()} == set(range(len(states)))
    for point, index in indexed.items():
        torch.testing.assert_close(values[point][valid], states[index][valid], rtol=0, atol=1e-6, msg=str(point))


def test_the_padding_side_does_not_matter(folder, kind, adapter) -> None:  # noqa: ANN001
    rows = []
    for side in ("right", "left"):
        inputs = processed(folder, kind, samples(), side)
        rows.append(adapter.capture(adapter.batch(inputs), [FINAL])[FINAL][inputs["attention_mask"].bool()])
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-5)


def test_sdpa_gives_the_same_features(folder, adapter) -> None:  # noqa: ANN001
    other = loaded(folder, Runtime(attention="sdpa"))
    one, two = (pooled(each, samples(), [FINAL])[FINAL] for each in (adapter, other))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_sample_is_the_same_alone_even_beside_pictures_of_another_size(folder) -> None:  # noqa: ANN001
    """Without `input_size` samples differ in their number of visual tokens, so both stacks are padded."""
    adapter = loaded(folder, input_size=None)
    mixed = [samples(1)[0], replace(samples(2, (224, 224))[1], id="large")]
    batch = adapter.encode(mixed)
    small, large = batch.tokens["lm"].spans["image.0"].sum(1).tolist()
    assert small < large
    assert (~batch.tokens["projector"].mask).sum(1).tolist() == [2 * (large - small), 0]
    for point in (FINAL, Point("projector", "output")):
        alone = np.concatenate([pooled(adapter, [sample], [point])[point] for sample in mixed])
        np.testing.assert_allclose(pooled(adapter, mixed, [point])[point], alone, atol=1e-5)


def test_each_camera_has_its_own_span(adapter) -> None:  # noqa: ANN001
    chosen = samples(2)
    changed = [replace(sample, images={**sample.images, "wrist": 255 - sample.images["wrist"]}) for sample in chosen]
    for stack, point in (("lm", Point("lm", "embedding")), ("projector", Point("projector", "output"))):
        batch = adapter.encode(chosen)
        before, after = (adapter.capture(each, [point])[point] for each in (batch, adapter.encode(changed)))
        assert torch.equal((before != after).any(-1), batch.tokens[stack].spans["image.1"])


def test_the_samples_own_order_of_cameras_does_not_matter(adapter) -> None:  # noqa: ANN001
    chosen = samples(2)
    turned = [replace(sample, images=dict(reversed(sample.images.items()))) for sample in chosen]
    one, two = (adapter.encode(each).inputs for each in (chosen, turned))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_deepstack_enters_between_the_blocks_and_the_clauses_say_so(adapter, kind) -> None:  # noqa: ANN001
    batch = adapter.encode(samples())
    values = adapter.capture(batch, adapter.clauses)
    for layer in range(1, 4):
        moved = (values[Point("lm", "output", layer - 1)] != values[Point("lm", "input", layer)]).any(-1)
        clause = adapter.clauses[Point("lm", "input", layer)]
        if kind == "qwen3_vl" and layer <= 2:  # two levels in the tiny network
            assert torch.equal(moved, batch.inputs["image_mask"])
            assert not clause.continues
            assert clause.hidden_states_index is None
        else:
            assert not moved.any()
            assert clause.continues


def test_bfloat16_stays_close(folder, adapter) -> None:  # noqa: ANN001
    rounded = pooled(loaded(folder, Runtime(dtype="bfloat16")), samples(), [FINAL])[FINAL]
    whole = pooled(adapter, samples(), [FINAL])[FINAL]
    assert np.abs(rounded - whole).max() < 0.1 * np.abs(whole).max()


# ---------------------------------------------------------------- checkpoints


def run(folder: Path, path: Path, *, suffix: str = ".pt", settings: str = "", **extra: torch.Tensor) -> Path:
    """The same weights as a training run of StarVLA saves them, its base model's small files beside."""
    base = path / "Qwen-VL"
    base.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, base)
    (path / "config.yaml").write_text(f"framework:\n  name: QwenGR00T\n  qwenvl:\n    base_vlm: ./playground/Qwen-VL\n{settings}")
    (path / "checkpoints").mkdir()
    stored = load_file(folder / "model.safetensors")
    stored[HEAD] = stored[next(name for name in stored if name.endswith("embed_tokens.weight"))].clone()
    state = {f"qwen_vl_interface.model.{name}": tensor for name, tensor in stored.items()} | {"action_model.w": torch.ones(2, 2)} | extra
    if suffix == ".pt":
        torch.save(state, path / "checkpoints/steps_500_pytorch_model.pt")
        torch.save({}, path / "checkpoints/steps_60_pytorch_model.pt")  # earlier, though its name sorts later
    else:
        save_file(state, path / "checkpoints/steps_500_model.safetensors")
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_training_run_gives_the_features_of_the_plain_folder(folder, adapter, tmp_path, suffix) -> None:  # noqa: ANN001
    other = loaded(run(folder, tmp_path / "run", suffix=suffix))
    one, two = (each.capture(each.encode(samples()), [FINAL])[FINAL] for each in (adapter, other))
    assert torch.equal(one, two)
    assert other.unlike_checkpoint() == []


@pytest.mark.parametrize(("language", "visual"), [("model.", "visual."), ("model.language_model.", "model.visual.")])
def test_names_from_before_and_after_transformers_4_52_mean_the_same(folder, adapter, tmp_path, language, visual) -> None:  # noqa: ANN001
    """Qwen2.5-VL is published, and was trained by StarVLA, under either; transformers 5.23 saves the older one."""
    native = {name.removeprefix("vlm."): tensor for name, tensor in adapter.published_state().items()}
    renamed = {name.replace("model.language_model.", language).replace("model.visual.", visual): tensor for name, tensor in native.items()}
    shutil.copytree(folder, tmp_path / "renamed")
    save_file(renamed, tmp_path / "renamed/model.safetensors")
    other = loaded(tmp_path / "renamed")
    one, two = (each.capture(each.encode(samples()), [FINAL])[FINAL] for each in (adapter, other))
    assert torch.equal(one, two)
    assert StarVLA.anatomy(tmp_path / "renamed").shapes.keys() == renamed.keys()


def test_the_runs_own_prompt_wins(folder, adapter, tmp_path) -> None:  # noqa: ANN001
    settings = "datasets:\n  vla_data:\n    CoT_prompt: 'Your task is {instruction}. Look.'\n"
    trained = loaded(run(folder, tmp_path / "run", settings=settings), cot_prompt="Not {instruction}")
    spoken = [replace(sample, instruction=f"Your task is {sample.instruction}. Look.") for sample in samples()]
    assert torch.equal(trained.encode(samples()).inputs["input_ids"], adapter.encode(spoken).inputs["input_ids"])
    optional = loaded(folder, cot_prompt="Your task is {instruction}. Look.")
    assert torch.equal(optional.encode(samples()).inputs["input_ids"], adapter.encode(spoken).inputs["input_ids"])


def test_the_anatomy_accounts_for_every_tensor_of_a_run(folder, tmp_path) -> None:  # noqa: ANN001
    import re

    path = run(folder, tmp_path / "run")
    stored = torch.load(path / "checkpoints/steps_500_pytorch_model.pt", weights_only=True)
    anatomy = StarVLA.anatomy(path)
    ignored = {name for name in stored if re.match(anatomy.ignored, name)}
    assert ignored == {"action_model.w"}
    assert anatomy.shapes == {name: tuple(tensor.shape) for name, tensor in stored.items() if name not in ignored}
    assert all(any(re.match(pattern, name) for pattern in anatomy.parts.values()) for name in stored)


def _lost(state: dict, name: str) -> None:
    del state[name]


def _left_over(state: dict, name: str) -> None:
    state[name + ".lora_A"] = state[name].clone()


def _misshapen(state: dict, name: str) -> None:
    state[name] = state[name][1:].clone()


def _spoiled(state: dict, name: str) -> None:
    state[name] = torch.full_like(state[name], float("nan"))


@pytest.mark.parametrize(("damage", "says"), [(_lost, "missing"), (_left_over, "no place"), (_misshapen, "shape"), (_spoiled, "NaN")])
def test_a_damaged_checkpoint_is_refused_by_the_tensors_name(folder, tmp_path, damage, says) -> None:  # noqa: ANN001
    state = load_file(folder / "model.safetensors")
    name = sorted(name for name in state if "visual.merger" in name and "weight" in name)[0]
    damage(state, name)
    shutil.copytree(folder, tmp_path / "plain")
    save_file(state, tmp_path / "plain/model.safetensors")
    with pytest.raises(DamagedError, match=f"(?s){says}.*{name.rpartition('visual.')[2]}|{name.rpartition('visual.')[2]}.*{says}"):
        loaded(tmp_path / "plain")


def test_a_run_is_refused_when_damaged(folder, tmp_path) -> None:  # noqa: ANN001
    path = run(folder, tmp_path / "run")
    file = path / "checkpoints/steps_500_pytorch_model.pt"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"version https://git-lfs.github.com/spec/v1\n"):
        file.write_bytes(content)
        with pytest.raises(DamagedError, match="steps_500"):
            loaded(path)
    torch.save({"model": {"w": torch.ones(1)}}, file)
    with pytest.raises(DamagedError, match="named tensors"):
        loaded(path)
    shutil.rmtree(path / "Qwen-VL")
    with pytest.raises(MissingError, match="base model.*\n.*base_vlm"):
        loaded(path)
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(MissingError, match="no weights"):
        loaded(path)


def test_two_different_output_layers_are_refused_where_they_are_tied(folder, tmp_path) -> None:  # noqa: ANN001
    tensor = load_file(folder / "model.safetensors")
    embedding = next(value for name, value in tensor.items() if name.endswith("embed_tokens.weight"))
    with pytest.raises(DamagedError, match="two different"):
        loaded(run(folder, tmp_path / "run", **{f"qwen_vl_interface.model.{HEAD}": embedding + 1}))


@pytest.mark.parametrize("change", [{"model_type": "llama"}, {"vision_config": {"depth": "many"}}])
def test_another_family_or_nonsense_is_refused(folder, tmp_path, change) -> None:  # noqa: ANN001
    shutil.copytree(folder, tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "plain/config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(DamagedError, match="config.json"):
        loaded(tmp_path / "plain")


def test_sliding_windows_are_refused() -> None:
    config = subjects.resolve("starvla_qwen25:mock").config
    with pytest.raises(DamagedError, match="sliding"):
        build_config({**config, "text_config": {**config["text_config"], "use_sliding_window": True}}, "test")


def test_the_published_flat_configuration_means_the_same() -> None:
    """Qwen2.5-VL's own config.json has the language model's fields at its top level, and a dtype that must not decide ours."""
    nested = subjects.resolve("starvla_qwen25:abstract").config
    text = {name: value for name, value in nested["text_config"].items() if name != "model_type"}
    flat = {name: value for name, value in nested.items() if name != "text_config"} | text
    flat |= {"torch_dtype": "bfloat16", "output_hidden_states": True}
    one, two = build_config(nested, "test"), build_config(flat, "test")
    assert (two.dtype, two.output_hidden_states, two.text_config.dtype) == (None, False, None)
    assert one.text_config.rope_parameters == two.text_config.rope_parameters
    assert native_shapes(one) == native_shapes(two)


def test_a_changed_parameter_is_told(folder) -> None:  # noqa: ANN001
    adapter = loaded(folder)
    assert adapter.unlike_checkpoint() == []
    adapter.model.language_model.norm.weight.data += 1
    assert adapter.unlike_checkpoint() == ["vlm.model.language_model.norm.weight"]


# ---------------------------------------------------------------- inputs and sizes


def test_unfit_samples_are_refused(adapter) -> None:  # noqa: ANN001
    sample = samples(1)[0]
    with pytest.raises(UsageError, match="placeholder"):
        adapter.encode([replace(sample, instruction="look at <|image_pad|>")])
    with pytest.raises(UsageError, match="RGB"):
        adapter.encode([replace(sample, images={name: image[..., 0] for name, image in sample.images.items()})])
    with pytest.raises(UsageError, match="wrist"):
        adapter.encode([replace(sample, images={"primary": sample.images["primary"]})])


def test_a_placeholder_without_its_visual_tokens_is_refused(folder, kind, adapter) -> None:  # noqa: ANN001
    inputs = dict(processed(folder, kind, samples(), "right"))
    inputs["input_ids"][0, inputs["input_ids"][0].tolist().index(adapter.model.config.image_token_id)] = 0
    with pytest.raises(UsageError, match="placeholder"):
        adapter.batch(inputs)


@pytest.mark.parametrize("card", CARDS.values())
def test_the_published_sizes_run_without_weights(card) -> None:  # noqa: ANN001
    subject = subjects.resolve(f"{card}:abstract")
    adapter = subjects.load(subject, Runtime())
    batch = adapter.encode(samples(2))
    value = adapter.capture(batch, [FINAL])[FINAL]
    assert value.is_meta
    assert value.shape[2] == subject.documented["width"]
    assert int(batch.tokens["lm"].spans["image.1"][0].sum()) == subject.documented["patches"]
    assert sum(point.stream == "output" and point.stack == "lm" for point in adapter.clauses) == subject.documented["layers"]


@pytest.mark.parametrize(("card", "millions"), [("starvla_qwen25", 3754.6), ("starvla_qwen3", 4437.8)])
def test_the_published_number_of_parameters(card, millions) -> None:  # noqa: ANN001
    """Total tensor sizes of the published safetensors: 7.51 and 8.88 GB of bfloat16."""
    adapter = subjects.load(subjects.resolve(f"{card}:abstract"), Runtime())
    assert sum(parameter.numel() for parameter in adapter.model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
