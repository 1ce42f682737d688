"""A checkpoint is described and held to its family by headers alone, and says of every tensor what the loader would say."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, BertConfig, Dinov2Config, LlamaConfig

from harness import checkpoints, inspection, registry
from harness.checkpoints import _digests
from harness.adapters.language import Language
from harness.adapters.openvla import OpenVLA
from harness.adapters.vision import Vision
from harness.cards import model_card
from harness.errors import DamagedError, MissingError, UnknownNameError, UsageError
from harness.inspection import Inspection, compare, inspect, tables
from harness.types import Runtime, Subject, Weights

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "fixtures/data/openvla_tiny/checkpoint"
PACKS = ROOT.parent / "shared" / "goldens"
FC1 = "projector.fc1.weight"
State = dict[str, Tensor]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the shipped OpenVLA checkpoint."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def save(folder: Path, state: State, name: str = "model.safetensors") -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name, metadata={"format": "pt"})


def changed(folder: Path, change: Callable[[State], object]) -> Path:
    state = load_file(folder / "model.safetensors")
    change(state)
    save(folder, state)
    return folder


def loads(adapter: type, folder: Path) -> bool:
    try:
        adapter.load(Subject("saved", "checkpoint", "any", {}, Weights("directory", "digest", folder)), Runtime())
    except DamagedError:
        return False
    return True


def test_a_checkpoint_is_described_by_part_file_and_dtype() -> None:
    found, state = inspect(TINY), load_file(TINY / "model.safetensors")
    assert (found.family, found.model_type, found.format) == ("openvla", "openvla", "safetensors")
    assert found.files == {"model.safetensors": (TINY / "model.safetensors").stat().st_size}
    assert found.tensors.keys() == state.keys()
    assert all((entry.shape, entry.dtype) == (tuple(state[name].shape), "float32") for name, entry in found.tensors.items())
    assert found.parts.keys() == {"vision", "projector", "language"}
    assert found.parts["projector"].parameters == sum(x.numel() for name, x in state.items() if name.startswith("projector."))
    assert (found.total.tensors, found.total.parameters, found.total.bytes) == (len(state), sum(x.numel() for x in state.values()), sum(x.nbytes for x in state.values()))
    assert found.fit is not None
    assert found.fit.holds
    assert len(found.fit.ignored) == 13
    assert all("attn_pool" in name for name in found.fit.ignored)


CHANGES: dict[str, tuple[Callable[[State], object], str]] = {
    "nothing": (lambda state: None, ""),
    "one removed": (lambda state: state.pop(FC1), "missing"),
    "one added": (lambda state: state.update(extra=torch.ones(2)), "unexpected"),
    "one transposed": (lambda state: state.update({FC1: state[FC1].T}), "misshapen"),
    "unused pooling removed": (lambda state: [state.pop(name) for name in list(state) if "attn_pool" in name], ""),
    "half precision": (lambda state: state.update({name: x.bfloat16() for name, x in state.items()}), ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_fits_is_what_the_loader_accepts(tiny: Path, change: str) -> None:
    edit, kind = CHANGES[change]
    fit = inspect(changed(tiny, edit)).fit
    assert fit is not None
    assert [name for name in ("missing", "unexpected", "misshapen") if getattr(fit, name)] == ([kind] if kind else [])
    assert fit.holds == loads(OpenVLA, tiny)
    if kind:
        assert list(getattr(fit, kind)) == ["extra" if change == "one added" else FC1]


def test_the_published_openvla_has_as_many_parameters_as_its_authors_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(model_card("openvla").config)))
    anatomy = OpenVLA.anatomy(tmp_path)
    width, hidden = 1152, 4304  # SigLIP's pooling head, published and unused: latent, q, kv, projection, norm, two layers
    pooling = width + 4 * width * (width + 1) + 2 * width + 2 * width * hidden + hidden + width
    assert sum(map(math.prod, anatomy.shapes.values())) + pooling == 7_541_237_184


def test_a_misshapen_tensor_is_told_with_both_shapes(tiny: Path) -> None:
    fit = inspect(changed(tiny, CHANGES["one transposed"][0])).fit
    assert fit is not None
    here, wanted = fit.misshapen[FC1]
    assert here == wanted[::-1]


@pytest.mark.parametrize("pack", ["openvla/a", "openvla/b", "spatialvla/a", "spatialvla/b", "robovlms/a", "robovlms/b", "robovlms/c"])
def test_every_parity_pack_fits_its_family(pack: str) -> None:
    if not (PACKS / pack).is_dir():
        pytest.skip(f"no parity packs in {PACKS}")
    found = inspect(PACKS / pack / "checkpoint")
    assert found.family == pack.partition("/")[0]
    assert found.fit is not None, found.unfit
    assert found.fit.holds, found.fit
    assert "other" not in found.parts
    if found.family == "robovlms":
        assert [{name.split("text_model.")[1] for name in names} for names in found.tied] == [{"lm_head.weight", "model.embed_tokens.weight"}]


MODELS = {
    "llama": (Language, LlamaConfig(vocab_size=6, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=None)),
    "bert": (Language, BertConfig(vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)),
    "dinov2": (Vision, Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)),
}
SPELLINGS: dict[str, Callable[[State, str], State]] = {
    "as saved": lambda state, prefix: state,
    "with the prefix": lambda state, prefix: {prefix + name: x for name, x in state.items()},
    "some with the prefix": lambda state, prefix: {(prefix if number % 2 else "") + name: x for number, (name, x) in enumerate(state.items())},
    "with a head": lambda state, prefix: {**{prefix + name: x for name, x in state.items()}, "lm_head.weight": torch.ones(6, 16)},
    "with positions": lambda state, prefix: {**state, "embeddings.position_ids": torch.ones(1, 6, dtype=torch.long)},
    "with frequencies": lambda state, prefix: {**state, "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "without its last tensor": lambda state, prefix: dict(list(state.items())[:-1]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_transformers_checkpoint_fits_when_transformers_would_load_it_whole(tmp_path: Path, kind: str, spelling: str) -> None:
    adapter, config = MODELS[kind]
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    save(tmp_path, SPELLINGS[spelling](load_file(tmp_path / "model.safetensors"), f"{model.base_model_prefix}."))
    found = inspect(tmp_path)
    assert found.fit is not None
    assert found.family == adapter.__name__.lower()
    assert set(found.parts) == {found.family}
    assert found.fit.holds == loads(adapter, tmp_path), found.fit


def test_old_and_new_names_of_a_tower_fit_alike(tmp_path: Path) -> None:
    model = AutoModel.from_config(MODELS["dinov2"][1])
    model.save_pretrained(tmp_path)
    published = inspect(tmp_path)
    save(tmp_path, dict(model.state_dict()))
    native = inspect(tmp_path)
    assert any("attention.attention.query" in name for name in published.tensors)
    assert any("attention.q_proj" in name for name in native.tensors)
    assert published.fit is not None
    assert native.fit is not None
    assert published.fit.holds
    assert native.fit.holds


def sparse(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    """A safetensors file with a true header over a hole of the right size."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)


def test_nothing_but_headers_is_read_of_safetensors(tmp_path: Path) -> None:
    for number in range(3):
        sparse(tmp_path / f"model-{number}.safetensors", {f"{number}.{name}": (1 << 17, 1 << 14) for name in "abcd"})
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = inspect(tmp_path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert found.total.bytes == 12 << 32  # 51 GB
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert after.ru_minflt - before.ru_minflt < 50_000  # pages touched: 200 MB at most


def test_nothing_but_headers_is_read_of_torch_files(tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        torch.save({"state_dict": {f"layers.{number}.w": torch.empty(1 << 14, 1 << 13) for number in range(4)}}, tmp_path / "model.pt")
    inspect(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert inspect(tmp_path).total.bytes == 4 << 29  # 2 GB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 20_000


def test_the_structure_digest_depends_on_names_shapes_and_dtypes_and_not_on_files(tiny: Path, tmp_path: Path) -> None:
    digest, state = inspect(tiny).structure, load_file(tiny / "model.safetensors")
    sharded = Path(shutil.copytree(tiny, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    halves = {f"model-0000{half + 1}-of-00002.safetensors": sorted(state, reverse=True)[half::2] for half in (0, 1)}
    for file, names in halves.items():
        save(sharded, {name: 2 * state[name] for name in names}, file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: file for file, names in halves.items() for name in names}}))
    found = inspect(sharded)
    assert found.structure == digest
    assert found.files.keys() == halves.keys()
    assert found.fit == inspect(tiny).fit
    others = [inspect(changed(Path(shutil.copytree(tiny, tmp_path / change)), CHANGES[change][0])).structure for change in ("one removed", "one transposed", "half precision")]
    assert len({digest, *others}) == 4


def torch_file(folder: Path, content: object, name: str = "model.pt", **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / name, **options)
    return folder


W = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("content", "extras"),
    [
        ({"a.w": W}, ()),
        ({"state_dict": {"a.w": W}, "epoch": 3, "optimizer_states": [{"exp_avg": W}]}, ("epoch", "optimizer_states")),
        ({"model_state_dict": {"a.w": W, "a.version": 2}, "loss": W}, ("a.version", "loss")),
        ({"module": {"a.w": W}}, ()),
    ],
)
def test_a_state_dict_is_found_at_the_top_or_under_its_usual_names(tmp_path: Path, content: object, extras: tuple[str, ...]) -> None:
    found = inspect(torch_file(tmp_path / "c", content))
    assert (found.format, found.extras) == ("torch", extras)
    assert {name: (entry.shape, entry.dtype, entry.bytes) for name, entry in found.tensors.items()} == {"a.w": ((2, 3), "float32", 24)}


def test_the_same_tensors_have_one_structure_in_either_format(tmp_path: Path) -> None:
    state = {"a.w": W.bfloat16(), "b.w": torch.ones(3, dtype=torch.int64), "c": torch.tensor(True)}
    folder = torch_file(tmp_path / "torch", state)
    (tmp_path / "safe").mkdir()
    save(tmp_path / "safe", state)
    difference = compare(inspect(folder), inspect(tmp_path / "safe"))
    assert difference.holds
    assert difference.shared == 3


def test_tied_tensors_are_named_and_counted_once(tmp_path: Path) -> None:
    big = torch.zeros(8, 3)
    found = inspect(torch_file(tmp_path / "c", {"lm_head.weight": big, "embed_tokens.weight": big, "view": big[:4], "copy": big.clone()}))
    assert found.tied == (("embed_tokens.weight", "lm_head.weight"),)
    assert found.total.parameters == 24 + 12 + 24


@pytest.mark.parametrize(("tie", "head", "tied"), [(True, False, True), (False, False, False), (True, True, False)])
def test_a_head_that_the_configuration_ties_is_told(tmp_path: Path, tie: bool, head: bool, tied: bool) -> None:
    save(tmp_path, {"model.embed_tokens.weight": torch.ones(4, 3), **({"lm_head.weight": torch.ones(4, 3)} if head else {})})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other", "text_config": {"tie_word_embeddings": tie}}))
    assert [names[0] for names in inspect(tmp_path).tied] == (["model.embed_tokens.weight"] if tied else [])


class Trap:
    """Its pickle wants a class that is no tensor."""


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"state_dict": {"w": W}, "hyper_parameters": argparse.Namespace(lr=1)}, r"wants more than tensors(.|\n)*model\.pt(.|\n)*argparse\.Namespace"),
        ({"state_dict": {"w": W}, "trap": Trap()}, r"wants more than tensors(.|\n)*test_inspection\.Trap"),
        ({"epoch": 3}, r"no state dict(.|\n)*epoch"),
        ([W], r"no state dict(.|\n)*no dictionary"),
    ],
)
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path: Path, content: object, match: str) -> None:
    with pytest.raises(DamagedError, match=match):
        inspect(torch_file(tmp_path / "c", content))


def test_a_file_of_an_old_torch_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"model\.pt(.|\n)*torch 1\.6"):
        inspect(torch_file(tmp_path / "c", {"w": W}, _use_new_zipfile_serialization=False))


def test_a_truncated_torch_file_is_refused(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "c", {"w": W}) / "model.pt"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DamagedError, match=r"model\.pt"):
        inspect(path.parent)


def test_what_a_trainer_leaves_beside_the_weights_is_not_weights(tmp_path: Path) -> None:
    folder = torch_file(tmp_path / "c", {"w": W}, "pytorch_model.bin")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        torch_file(folder, {"state": W, "w": W}, name)
    assert inspect(folder).files.keys() == {"pytorch_model.bin"}
    (folder / "pytorch_model.bin").rename(folder / "weights.bin")
    assert inspect(folder).files.keys() == {"weights.bin"}


def test_two_checkpoints_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save(tmp_path, {"w": W}, f"{name}.safetensors")
    with pytest.raises(DamagedError, match=r"two files(.|\n)*first\.safetensors and second\.safetensors, first w"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    ],
    ids=["shared bytes", "a gap", "too few bytes", "no shape"],
)
def test_a_safetensors_header_that_safetensors_refuses_is_refused(tmp_path: Path, header: dict) -> None:
    content = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + bytes(8))
    with pytest.raises(DamagedError, match=r"model\.safetensors"):
        inspect(tmp_path)
    with pytest.raises(Exception, match="header"):
        load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), DamagedError),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), DamagedError),
        (lambda path: path.unlink(), MissingError),
        (lambda path: (path.parent / "config.json").write_text("{"), DamagedError),
        (lambda path: (path.parent / "config.json").write_text("[]"), DamagedError),
    ],
    ids=["LFS pointer", "truncated", "no weights", "broken config", "no config"],
)
def test_files_that_are_not_whole_are_refused_before_anything_is_said(tiny: Path, spoil: Callable[[Path], object], error: type[Exception]) -> None:
    spoil(tiny / "model.safetensors")
    with pytest.raises(error):
        inspect(tiny)


@pytest.mark.parametrize(("config", "said"), [('{"model_type": "gpt2"}', r"model_type 'gpt2'"), ("{}", "no model_type|no config"), (None, "no config.json")])
def test_an_unknown_family_is_inspected_all_the_same(tmp_path: Path, config: str | None, said: str) -> None:
    save(tmp_path, {"wte.weight": W.clone(), "h.0.w": W.clone(), "h.1.w": W.clone()})
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    found = inspect(tmp_path)
    assert (found.family, found.fit) == (None, None)
    assert re.search(said, found.unfit or "")
    assert "--family" in (found.unfit or "")
    assert {part: size.tensors for part, size in found.parts.items()} == {"h": 2, "wte": 1}


def test_a_training_run_s_yaml_names_the_family_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Claims, "recognises", classmethod(lambda cls, config: asked.append(config)))
    with_families(monkeypatch, claims=Claims)
    save(tmp_path, {"w": W})
    (tmp_path / "config.yaml").write_text("framework: {name: QwenOFT}")
    assert inspect(tmp_path).family is None
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(DamagedError, match="not YAML"):
        inspect(tmp_path)
    assert asked == [{"framework": {"name": "QwenOFT"}}]


def test_a_family_can_be_forced_and_answers_for_itself(tiny: Path) -> None:
    (tiny / "config.json").write_text(json.dumps({**json.loads((tiny / "config.json").read_text()), "model_type": "prismatic2"}))
    assert inspect(tiny).family is None
    with pytest.raises(DamagedError, match="not an OpenVLA checkpoint"):
        inspect(tiny, family="openvla")
    with pytest.raises(UnknownNameError, match="'openvla'"):
        inspect(tiny, family="openvlaa")


class Claims:
    """A family that claims everything and has no anatomy."""

    @classmethod
    def recognises(cls, config: object) -> bool:
        return True

    @classmethod
    def anatomy(cls, directory: Path) -> None:
        raise UsageError("Claims has no published checkpoint format to compare with")


def with_families(monkeypatch: pytest.MonkeyPatch, **families: object) -> None:
    def load(kind: str, name: str) -> object:
        if isinstance(found := families[name], Exception):
            raise found
        return found

    monkeypatch.setattr(registry, "names", lambda kind: tuple(families))
    monkeypatch.setattr(registry, "load", load)


def test_a_family_without_an_anatomy_says_why_keys_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    with_families(monkeypatch, claims=Claims)
    found = inspect(TINY)
    assert (found.family, found.fit, found.unfit) == ("claims", None, "Claims has no published checkpoint format to compare with")


def test_two_families_that_claim_a_checkpoint_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_families(monkeypatch, claims=Claims, openvla=OpenVLA)
    with pytest.raises(UsageError, match=r"several families(.|\n)*claims, openvla(.|\n)*--family claims"):
        inspect(TINY)
    assert inspect(TINY, family="openvla").family == "openvla"


def test_a_family_whose_packages_are_absent_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with_families(monkeypatch, absent=ImportError("no jax"), openvla=OpenVLA)
    assert inspect(TINY).family == "openvla"
    with_families(monkeypatch, absent=ImportError("no jax"))
    assert "could not be imported and asked: absent" in (inspect(TINY).unfit or "")


def test_two_checkpoints_differ_by_names_shapes_and_dtypes_in_their_parts(tiny: Path, tmp_path: Path) -> None:
    def edit(state: State) -> None:
        state["projector.fc9.weight"] = state.pop(FC1)
        state["projector.fc2.weight"] = state["projector.fc2.weight"][:, :-1]
        state["language_model.lm_head.weight"] = state["language_model.lm_head.weight"].half()

    other = changed(Path(shutil.copytree(tiny, tmp_path / "other")), edit)
    first, second = inspect(tiny), inspect(other)
    found = compare(first, second)
    assert (found.only_first, found.only_second) == ((FC1,), ("projector.fc9.weight",))
    assert found.shapes == {"projector.fc2.weight": (first.tensors["projector.fc2.weight"].shape, second.tensors["projector.fc2.weight"].shape)}
    assert found.dtypes == {"language_model.lm_head.weight": ("float32", "float16")}
    assert found.parts == {
        "language": {"only_first": 0, "only_second": 0, "shapes": 0, "dtypes": 1},
        "projector": {"only_first": 1, "only_second": 1, "shapes": 1, "dtypes": 0},
    }
    assert (found.comparable, found.holds, found.shared) == (False, False, len(first.tensors) - 2)


def test_dtypes_alone_make_a_difference_that_can_still_be_compared(tiny: Path, tmp_path: Path) -> None:
    half = changed(Path(shutil.copytree(tiny, tmp_path / "half")), CHANGES["half precision"][0])
    found = compare(inspect(tiny), inspect(half))
    assert (found.comparable, found.holds) == (True, False)
    assert compare(inspect(tiny), inspect(tiny)).holds


def test_bytes_are_read_only_when_asked_for(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_digests, "file_digest", lambda path: pytest.fail(f"{path} was read"))
        assert inspect(tiny).content is None
    content = inspect(tiny, digest=True, memory=tmp_path / "digests.json").content
    assert content == inspection.Content(checkpoints.directory_digest(tiny), 0)
    assert (tmp_path / "digests.json").is_file()


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """The shipped checkpoint as the hub's cache keeps it: a snapshot of links to blobs, the weights' named by sha256."""
    cache = tmp_path / "models--org--tiny"
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for path in TINY.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        blob = cache / "blobs" / (digest if path.suffix == ".safetensors" else digest[:40])
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    return cache


def test_a_folder_of_the_hub_s_cache_stands_for_its_snapshot(cached: Path) -> None:
    found = inspect(cached, digest=True)
    assert found.directory == cached / "snapshots" / "abc"
    assert (found.structure, found.content) == (inspect(TINY).structure, inspection.Content(checkpoints.directory_digest(TINY), 1))


def test_a_byte_that_is_not_what_was_published_is_found_with_the_digest_alone(cached: Path) -> None:
    blob = (cached / "snapshots/abc/model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert inspect(cached).fit is not None
    with pytest.raises(DamagedError, match="not what was published"):
        inspect(cached, digest=True)


def test_a_cache_with_locks_alone_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "models--org--tiny" / "blobs" / "0.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(MissingError, match="never finished"):
        inspect(tmp_path / "models--org--tiny")


def many(tmp_path: Path) -> Inspection:
    """OpenVLA without its last 25 language tensors."""
    folder = Path(shutil.copytree(TINY, tmp_path / "many"))
    return inspect(changed(folder, lambda state: [state.pop(name) for name in sorted(state)[10:35]]))


def test_a_screen_cuts_long_lists_and_says_how_long_they_are(tmp_path: Path) -> None:
    found = many(tmp_path)
    shown = {table.title.partition(":")[0]: table for table in tables(found)}
    assert shown["missing"].title == "missing: 25"
    assert [row[0] for row in shown["missing"].rows[:10]] == list(found.fit.missing[:10])
    assert shown["missing"].rows[10:] == [["… 15 more"]]
    assert "unexpected" not in shown
    assert all(len(row) == len(table.header) for table in shown.values() for row in table.rows)
    assert sum(len(table.rows) for table in shown.values()) < 60


def test_json_keeps_every_list_whole(tmp_path: Path) -> None:
    found = many(tmp_path)
    parsed = json.loads(json.dumps(inspection.as_json(found)))
    assert parsed["fits"] is False
    assert len(parsed["fit"]["missing"]) == 25
    assert parsed["tensors"].keys() == found.tensors.keys()
    assert parsed["tensors"][FC1] == {"shape": [248, 62], "dtype": "float32", "bytes": 248 * 62 * 4, "file": "model.safetensors", "part": "projector"}
    assert parsed["total"]["parameters"] == found.total.parameters
    difference = json.loads(json.dumps(inspection.as_json(compare(found, inspect(TINY)))))
    assert (difference["same"], len(difference["only_second"])) == (False, 25)
    assert len([table for table in tables(compare(found, inspect(TINY))) if "only in the second" in table.title][0].rows) == 11


def test_a_wrapper_s_prefix_makes_no_difference(tmp_path: Path) -> None:
    plain, wrapped = tmp_path / "plain", tmp_path / "wrapped"
    state = {"act_head.weight": torch.ones(2, 3), "backbone.norm": torch.ones(4)}
    for folder, prefix in ((plain, ""), (wrapped, "module.model.")):
        folder.mkdir()
        save(folder, {f"{prefix}{name}": x for name, x in state.items()})
    found = compare(inspect(plain), inspect(wrapped))
    assert found.holds
    assert found.shared == 2
    save(wrapped, {f"module.model.{name}": x for name, x in {**state, "backbone.norm": torch.ones(5)}.items()})
    assert compare(inspect(plain), inspect(wrapped)).shapes == {"backbone.norm": ((4,), (5,))}
