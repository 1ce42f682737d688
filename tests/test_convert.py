"""A π0 goes from layout to layout and comes back number for number, with everything that the others had no place for."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from harness import registry
from harness.cli._app import app
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.layouts.pi0 import EMBEDDING, EXPERT_HEAD, HEAD, new_name, old_name
from harness.layouts.pi0_arrays import Heads, Sizes
from harness.layouts.tensors import load

orbax = pytest.importorskip("harness.layouts.orbax", reason="orbax")
pytest.importorskip("orbax.checkpoint")

GOLDENS = Path(__file__).resolve().parent.parent.parent / "shared/goldens"
LAYOUTS = ("openpi", "lerobot_pi0", "pi0")
SIZES = Sizes(Heads(4, 1, 2), 6, 3, 20, 28, 12, 16, 32, 2, 8, 14, 3, 4, 5, 5)
NORM = {"norm_stats": {kind: {name: [x + 0.1 * i for i in range(4)] for name, x in (("mean", 0.3), ("std", 1.1), ("q01", -2.0), ("q99", 2.0))} for kind in ("state", "actions")}}
MODEL = {"action_horizon": 5, "max_token_len": 8, "num_steps": 3}


def convert(source: Path, destination: Path, to: str, **options: object) -> Path:
    registry.load("converters", to)(source, destination, **options)
    return destination


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    if (checkpoint / "params").is_dir():
        return orbax.read(checkpoint / "params")
    return {name: tensor.read() for name, tensor in load(checkpoint / "model.safetensors").items()}


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())
    return all(found[name].dtype == x.dtype and found[name].shape == x.shape and found[name].tobytes() == x.tobytes() for name, x in wanted.items())


def of_openpi(folder: Path, *, dtype: str = "float32", sizes: Sizes = SIZES) -> Path:
    """A checkpoint of random numbers, with statistics, a tokenizer and the description of a pack beside it."""
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    rng = np.random.default_rng(0)
    (folder / "checkpoint/assets/tiny").mkdir(parents=True)
    (folder / "pack.json").write_text(json.dumps({"model": MODEL}))
    (folder / "checkpoint/assets/tiny/norm_stats.json").write_text(json.dumps(NORM))
    (folder / "checkpoint/tokenizer.json").write_text("{}")
    orbax.write(folder / "checkpoint/params", {leaf.path: rng.standard_normal(sizes.leaf_shape(leaf)).astype(kind) for leaf in sizes.leaves})
    return folder / "checkpoint"


def of_lerobot(folder: Path, *, old: bool = False, embedding: str = HEAD, **extra: np.ndarray) -> Path:
    """The same of lerobot, with the head that only it has."""
    checkpoint = convert(of_openpi(folder), folder / "lerobot", "lerobot_pi0", old_names=old)
    stored = load_file(checkpoint / "model.safetensors")
    stored[new_name(EXPERT_HEAD)] = np.random.default_rng(1).standard_normal(stored[EXPERT_HEAD].shape).astype(np.float32)
    if embedding != HEAD:
        stored[embedding] = stored.pop(old_name(HEAD) if old else HEAD)
    save_file(stored | extra, checkpoint / "model.safetensors")
    for name in ("originals", "conversion.json"):
        path = checkpoint / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copyfile(folder / "pack.json", folder / "unused.json")
    model = {"vlm": {"num_heads": 4, "num_kv_heads": 1}, "vit": {"num_attention_heads": 2}}
    (folder / "pack.json").write_text(json.dumps({"model": model}))
    return checkpoint


SOURCES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "openpi": ("openpi", of_openpi),
    "openpi in bfloat16": ("openpi", lambda folder: of_openpi(folder, dtype="bfloat16")),
    "openpi with as many kv heads as heads": ("openpi", lambda folder: of_openpi(folder, sizes=Sizes(Heads(3, 3, 2), 6, 2, 20, 28, 12, 16, 32, 2, 8, 14, 3, 4, 5, 5))),
    "lerobot": ("lerobot_pi0", of_lerobot),
    "lerobot of old names": ("lerobot_pi0", lambda folder: of_lerobot(folder, old=True)),
    "lerobot with embed_tokens": ("lerobot_pi0", lambda folder: of_lerobot(folder, embedding=EMBEDDING)),
    "lerobot with both": ("lerobot_pi0", lambda folder: of_lerobot(folder, embedding=EMBEDDING, **{HEAD: np.ones((32, 20), np.float32)})),
    "lerobot with an average": ("lerobot_pi0", lambda folder: of_lerobot(folder, **{"ema.decay": np.ones(3, np.float32)})),
    "transformers": ("pi0", lambda folder: convert(of_lerobot(folder), folder / "pi0", "pi0")),
    **{f"golden {family}/{case}": (family, lambda folder, family=family, case=case: golden(family, case)) for family, case in (("openpi", "a"), ("openpi", "b"), ("lerobot_pi0", "a"), ("lerobot_pi0", "b_old"))},
}


def golden(family: str, case: str) -> Path:
    if not (GOLDENS / family / case).is_dir():
        pytest.skip(f"pack {family}/{case} is not on this machine")
    return GOLDENS / family / case / "checkpoint"


def documents(checkpoint: Path) -> dict[str, bytes]:
    """A checkpoint's own small files."""
    found = (path for path in checkpoint.rglob("*") if path.is_file() and path.suffix in (".json", ""))
    outside = ("params", "originals", "conversion.json")
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in found if path.relative_to(checkpoint).parts[0] not in outside}


@pytest.mark.filterwarnings("ignore:.*no part of the network")
@pytest.mark.parametrize("source", SOURCES)
def test_a_checkpoint_comes_back_from_every_other_layout(source: str, tmp_path: Path) -> None:
    layout, make = SOURCES[source]
    checkpoint = make(tmp_path / "source")
    wanted = arrays(checkpoint)
    wanted = {name if name.startswith("ema.") or layout != "lerobot_pi0" else new_name(name): x for name, x in wanted.items()}
    for way in itertools.chain(itertools.permutations([other for other in LAYOUTS if other != layout], 1), itertools.permutations([other for other in LAYOUTS if other != layout], 2)):
        at = checkpoint
        for number, stop in enumerate((*way, layout)):
            at = convert(at, tmp_path / "-".join(way) / f"{number}-{stop}", stop)
        assert same(arrays(at), wanted), way
        assert documents(at) == documents(checkpoint)


def test_old_names_come_back_when_asked_for(tmp_path: Path) -> None:
    source = of_lerobot(tmp_path / "source", old=True)
    there = convert(source, tmp_path / "there", "openpi")
    assert same(arrays(convert(there, tmp_path / "back", "lerobot_pi0", old_names=True)), arrays(source))
    assert "normalize_inputs.buffer_observation_state.mean" in arrays(source)
    renamed = convert(source, tmp_path / "renamed", "lerobot_pi0")
    assert same(arrays(renamed), {new_name(name): x for name, x in arrays(source).items()}) and documents(renamed) == documents(source)


@pytest.mark.parametrize("case", ["a", "b"])
def test_pi05_goes_to_lerobot_and_back_but_not_to_transformers(case: str, tmp_path: Path) -> None:
    own = Sizes(Heads(4, 1, 2), 6, 3, 20, 28, 12, 16, 32, 2, 8, 14, 3, 4, 5, 0)
    source = of_openpi(tmp_path / "source", sizes=own) if case == "a" else golden("openpi", "c_pi05")
    there = convert(source, tmp_path / "there", "lerobot_pi0")
    assert json.loads((there / "config.json").read_text())["type"] == "pi05"
    assert same(arrays(convert(there, tmp_path / "back", "openpi")), arrays(source))
    for start in (source, there):
        with pytest.raises(UsageError, match="transformers' pi0 has no π0.5"):
            convert(start, tmp_path / "native", "pi0")
    with pytest.raises(UsageError, match="no π0.5 of old names"):
        convert(source, tmp_path / "old", "lerobot_pi0", old_names=True)


@pytest.mark.filterwarnings("ignore:.*no part of the network")
def test_what_has_no_place_lies_beside(tmp_path: Path) -> None:
    source = of_lerobot(tmp_path / "source", embedding=EMBEDDING, **{HEAD: np.ones((32, 20), np.float32), "ema.decay": np.ones(3, np.float32)})
    there = convert(source, tmp_path / "there", "openpi")
    assert set(load_file(there / "leftovers.safetensors")) == {HEAD, EXPERT_HEAD, "lerobot_pi0:ema.decay"}
    native = convert(source, tmp_path / "native", "pi0")
    assert set(load_file(native / "leftovers.safetensors")) == {HEAD, "lerobot_pi0:ema.decay"}
    assert np.array_equal(arrays(native)["model.dit.embed_tokens.weight"], arrays(source)[EXPERT_HEAD])


def test_statistics_are_where_each_layout_looks_for_them(tmp_path: Path) -> None:
    source, mean = of_openpi(tmp_path / "source"), np.float32([0.3, 0.4, 0.5, 0.6])
    new, old = (convert(source, tmp_path / f"lerobot{old}", "lerobot_pi0", old_names=old) for old in (False, True))
    step = next(step for step in json.loads((new / "policy_preprocessor.json").read_text())["steps"] if "state_file" in step)
    np.testing.assert_array_equal(load_file(new / step["state_file"])["observation.state.mean"], mean)
    np.testing.assert_array_equal(arrays(old)["normalize_inputs.buffer_observation_state.mean"], mean)
    assert json.loads((convert(source, tmp_path / "pi0", "pi0") / "processor_config.json").read_text())["state_mean"] == NORM["norm_stats"]["state"]["mean"]
    shutil.rmtree(old / "originals")
    found = json.loads((convert(old, tmp_path / "openpi", "openpi") / "assets/converted/norm_stats.json").read_text())
    np.testing.assert_allclose(found["norm_stats"]["actions"]["std"], NORM["norm_stats"]["actions"]["std"], rtol=1e-7)


def test_transformers_loads_what_was_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    there = convert(of_openpi(tmp_path / "source"), tmp_path / "there", "pi0")
    model, info = transformers.PI0ForConditionalGeneration.from_pretrained(there, output_loading_info=True)
    assert not any(info.values())
    assert same({name: x.numpy() for name, x in model.state_dict().items()}, arrays(there))


def test_what_transformers_saved_is_read_under_each_of_its_namings(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    there = convert(of_openpi(tmp_path / "source"), tmp_path / "there", "pi0")
    loaded = transformers.PI0ForConditionalGeneration.from_pretrained(there)
    built = transformers.PI0ForConditionalGeneration(loaded.config)
    built.load_state_dict(loaded.state_dict())
    for index, model in enumerate((loaded, built)):
        model.save_pretrained(tmp_path / f"saved{index}")
        back = convert(tmp_path / f"saved{index}", tmp_path / f"back{index}", "openpi")
        assert same(arrays(back), arrays(tmp_path / "source/checkpoint"))


def test_shards_are_read_together(tmp_path: Path) -> None:
    source = of_lerobot(tmp_path / "source")
    stored = load_file(source / "model.safetensors")
    names = sorted(stored)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: stored[name] for name in part}, source / shard)
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: shard for shard, part in shards.items() for name in part}}))
    assert same(arrays(convert(convert(source, tmp_path / "there", "openpi"), tmp_path / "back", "lerobot_pi0")), stored)


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_openpi(tmp_path / "source")
    monkeypatch.setattr("harness.converters.pi0.write_companions", lambda *_, **__: (_ for _ in ()).throw(UsageError("no")))
    with pytest.raises(UsageError, match="no"):
        convert(source, tmp_path / "to/there", "pi0")
    assert list((tmp_path / "to").iterdir()) == []


# ---------------------------------------------------------------- bad sources


def without(name: str) -> Callable[[Path], None]:
    """The checkpoint without one tensor."""

    def change(source: Path) -> None:
        stored = load_file(source / "model.safetensors")
        del stored[name]
        save_file(stored, source / "model.safetensors")

    return change


def plus(name: str, like: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        stored = load_file(source / "model.safetensors")
        save_file(stored | {name: stored[like]}, source / "model.safetensors")

    return change


def configured(**fields: object) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        path = source / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


NORM_OF_1 = "model.paligemma_with_expert.gemma_expert.model.layers.1.input_layernorm.weight"
BAD = {
    "a tensor is missing": (without(NORM_OF_1), DamagedError, r"1 tensors are missing(.|\n)*layers\.1\.input_layernorm"),
    "the embedding is missing": (without(HEAD), DamagedError, "embed_tokens"),
    "LoRA": (plus("model.paligemma_with_expert.gemma_expert.model.layers.1.lora_a.weight", NORM_OF_1), DamagedError, r"no place in a π0(.|\n)*merge the LoRA"),
    "old and new name of one tensor": (plus(old_name("model.paligemma_with_expert.paligemma.model.language_model.norm.weight"), "model.paligemma_with_expert.paligemma.model.language_model.norm.weight"), DamagedError, "same place"),
    "another family": (configured(type="smolvla"), DamagedError, "no π0"),
    "no heads": (lambda source: (source.parent / "pack.json").unlink(), MissingError, r"nothing(.|\n)*heads(.|\n)*--size heads"),
    "other periods": (configured(max_period=10.0), DamagedError, "other arithmetic"),
    "state and action of two widths": (configured(max_action_dim=7), DamagedError, "files and its arrays disagree"),
    "config.json is cut": (lambda source: (source / "config.json").write_text("{"), DamagedError, "JSON"),
    "the weights are cut": (lambda source: os.truncate(source / "model.safetensors", 5000), DamagedError, "truncated|ends inside"),
    "no weights": (lambda source: (source / "model.safetensors").unlink(), HarnessError, "model.safetensors|weights"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_source_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    change, kind, match = BAD[name]
    source = of_lerobot(tmp_path / "source")
    if name == "another family":
        stored = load_file(source / "model.safetensors")
        save_file({f"vlm.{key}": x for key, x in stored.items()}, source / "model.safetensors")
    change(source)
    for to in ("openpi", "pi0"):
        with pytest.raises(kind, match=match):
            convert(source, tmp_path / "there", to)
        assert not (tmp_path / "there").exists()


def test_leaves_that_are_missing_are_listed(tmp_path: Path) -> None:
    source = of_openpi(tmp_path / "source")
    leaves = orbax.read(source / "params")
    shutil.rmtree(source / "params")
    orbax.write(source / "params", {path: leaf for path, leaf in leaves.items() if not path.startswith("state_proj")})
    with pytest.raises(DamagedError, match="state_proj"):
        convert(source, tmp_path / "there", "pi0")
    shutil.rmtree(source / "params")
    orbax.write(source / "params", leaves | {"PaliGemma/llm/layers/attn/q_einsum/lora_a": leaves["state_proj/bias"]})
    with pytest.raises(DamagedError, match="merge the LoRA"):
        convert(source, tmp_path / "there", "lerobot_pi0")


def test_two_embeddings_in_a_native_file_are_refused(tmp_path: Path) -> None:
    source = convert(of_openpi(tmp_path / "source"), tmp_path / "pi0", "pi0")
    plus("paligemma_with_expert.paligemma.lm_head.weight", "model.vlm.language_model.embed_tokens.weight")(source)
    with pytest.raises(DamagedError, match="two embeddings"):
        convert(source, tmp_path / "there", "openpi")


def test_several_datasets_statistics_need_a_choice(tmp_path: Path) -> None:
    source = of_openpi(tmp_path / "source")
    shutil.copytree(source / "assets/tiny", source / "assets/other")
    with pytest.raises(UsageError, match=r"several datasets(.|\n)*other, tiny"):
        convert(source, tmp_path / "there", "pi0")
    with pytest.raises(UnknownNameError, match="tiny"):
        convert(source, tmp_path / "there", "pi0", asset="tin")
    convert(source, tmp_path / "there", "pi0", asset="tiny")


def test_sizes_given_replace_a_pack(tmp_path: Path) -> None:
    source = of_lerobot(tmp_path / "source")
    (tmp_path / "source/pack.json").unlink()
    there = convert(source, tmp_path / "there", "pi0", sizes={"heads": 4, "kv_heads": 1, "vision_heads": 2})
    assert json.loads((there / "config.json").read_text())["vlm_config"]["text_config"]["head_dim"] == 6


def test_nothing_is_asked_for_that_a_file_tells(tmp_path: Path) -> None:
    """A converted checkpoint carries its sizes along, wherever it is moved to."""
    there = convert(of_lerobot(tmp_path / "source"), tmp_path / "there", "openpi")
    moved = shutil.move(there, tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(convert(Path(moved), tmp_path / "back", "lerobot_pi0"), tmp_path / "native", "pi0")


# ---------------------------------------------------------------- the command


def test_the_command_converts_and_says_where(tmp_path: Path) -> None:
    source = of_openpi(tmp_path / "source")
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "there"), "--to", "lerobot_pi0", "--old-names"])
    assert done.exit_code == 0 and str(tmp_path / "there") in done.output
    assert old_name(HEAD) in arrays(tmp_path / "there")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--to", "openp"], "no layout named 'openp'"),
        (["--to", "pi0", "--from", "torch"], "no layout of a π0 named 'torch'"),
        (["--to", "pi0", "--size", "heads=many"], "not a number"),
        (["--to", "pi0", "--size", "depth=3"], "no size named 'depth'"),
        (["--to", "pi0", "--old-names"], "only lerobot has old names"),
        (["--to", "pi0", "--from", "lerobot_pi0"], "model.safetensors"),
    ],
)
def test_a_wrong_command_is_explained(arguments: list[str], match: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["convert", str(of_openpi(tmp_path / "source")), str(tmp_path / "there"), *arguments])
    assert isinstance(done.exception, HarnessError) and match in str(done.exception)


def test_a_destination_that_exists_is_left_alone(tmp_path: Path) -> None:
    source = of_openpi(tmp_path / "source")
    (tmp_path / "there").mkdir()
    for to in LAYOUTS:
        with pytest.raises(UsageError, match="destination exists"):
            convert(source, tmp_path / "there", to)
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(("name", "match"), [("nothing", "no checkpoint here"), ("empty", "no π0 checkpoint"), ("params", "the params folder of an openpi checkpoint")])
def test_what_is_no_checkpoint_is_named(name: str, match: str, tmp_path: Path) -> None:
    source = of_openpi(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match=match):
        convert({"nothing": tmp_path / "nothing", "empty": tmp_path / "empty", "params": source / "params"}[name], tmp_path / "there", "pi0")
