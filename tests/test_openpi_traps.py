"""Each trap of π0 in JAX, put in on purpose, turns parity with upstream red; mistakes of loading and bad inputs are refused.

Traps run without compilation: a compiled function would not see the patch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from harness import subjects
from harness.adapters import _openpi_gemma as gemma
from harness.adapters import _openpi_sampler as sampler
from harness.adapters import _openpi_siglip as siglip
from harness.adapters._openpi_sizes import leaf_shapes
from harness.adapters._openpi_tree import random_leaf
from harness.adapters.openpi import OpenPI
from harness.contract.parity import parity
from harness.errors import DamagedError, HarnessError, MissingError, UnknownNameError, UsageError
from harness.layouts import orbax
from harness.types import Point, Runtime, Sample, Weights

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ROOT.parent / "shared/goldens/openpi"
# a, shipped with the tests, has an absent camera (padding in mid-sequence); c is π0.5
PACKS = {"a": ROOT / "fixtures/data/openpi_tiny", "c": GOLDENS / "c_pi05"}
Trap = Callable[[OpenPI, pytest.MonkeyPatch], object]
Array = Any


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def load(pack: Path, **runtime: str) -> OpenPI:
    return subjects.load(subjects.resolve("openpi:checkpoint", checkpoint=pack / "checkpoint"), Runtime(**runtime))  # type: ignore[arg-type,return-value]


def there(case: str) -> Path:
    if not PACKS[case].is_dir():
        pytest.skip(f"pack {case} is not on this machine")
    return PACKS[case]


def instead(module: object, name: str, change: Callable[..., Any]) -> Trap:
    """`change(original, *arguments)` instead of a function of a module."""
    original = getattr(module, name)
    return lambda adapter, patch: patch.setattr(module, name, lambda *given, **named: change(original, *given, **named))


def value(module: object, name: str, other: object) -> Trap:
    return lambda adapter, patch: patch.setattr(module, name, other)


def of_layout(name: str, change: Callable[[Any], Any]) -> Trap:
    """Another mask or other positions of the prefix or the suffix."""
    return instead(sampler, name, lambda original, *given, **named: change(original(*given, **named)))


def reversed_cameras(adapter: OpenPI, patch: pytest.MonkeyPatch) -> None:
    adapter.settings = replace(adapter.settings, image_keys=adapter.settings.image_keys[::-1])


def words_causal(original: Callable[..., Any], image_mask: Array, prompt_mask: Array, *, patches: int) -> Any:
    """Each word sees only those before it, as in a language model of its own."""
    layout = original(image_mask, prompt_mask, patches=patches)
    images = image_mask.shape[1] * patches
    return layout._replace(mask=sampler.visible(layout.valid, jnp.arange(layout.valid.shape[1]) >= images))


def patches_by_column(original: Callable[..., Array], parameters: Any, images: Array, *, dtype: str) -> Array:
    """Columns before rows."""
    x = original({**parameters, "pos_embedding": 0 * parameters["pos_embedding"]}, images, dtype=dtype)
    side = int(x.shape[2] ** 0.5)
    return x.reshape(*x.shape[:2], side, side, -1).swapaxes(2, 3).reshape(x.shape) + parameters["pos_embedding"][0]


def interleaved(x: Array, positions: Array) -> Array:
    """Rotary pairs of neighbours instead of halves."""
    order = np.argsort(np.concatenate([np.arange(0, x.shape[-1], 2), np.arange(1, x.shape[-1], 2)]))
    return ROTATED(x[..., np.argsort(order)], positions)[..., order]


ROTATED, NORM, MODULATION = gemma.rotated, gemma.norm, gemma.modulation


def einsum_of(module: object, equation: str, change: Callable[..., tuple[Array, ...]]) -> Trap:
    """The operands of one kind of product changed."""
    original = module.einsum  # type: ignore[attr-defined]

    def einsum(given: str, *operands: Array, **named: Any) -> Array:
        return original(given, *(change(*operands) if given == equation else operands), **named)

    return lambda adapter, patch: patch.setattr(module, "einsum", einsum)


def norm_skipped(adapter: OpenPI, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gemma, "norm", lambda parameters, x, time, *, name: x if name == "final_norm" else NORM(parameters, x, time, name=name))


def tower_unnormed(original: Callable[..., Any], parameters: Any, x: Array) -> Any:
    return siglip.Seen(x, siglip.dense(parameters, "head", x))


def modulated(change: Callable[[Any], Any]) -> Trap:
    """Factor, shift and gate of the norms that follow the time."""
    return instead(gemma, "modulation", lambda original, *given: change(made) if (made := original(*given)).gate is not None else made)


def first_tokens(original: Callable[..., Any], parameters: Any, hidden: Array, actions: Array, step: float) -> Any:
    """The velocity read at the state and the first actions."""
    return original(parameters, hidden[:, : actions.shape[1]], actions, step)


def last_cache(adapter: OpenPI, patch: pytest.MonkeyPatch) -> None:
    """Every block of the expert sees the first block's keys."""
    original, first = gemma.block, []

    def block(parameters: Any, x: Array, positions: Array, mask: Array, past: Any, time: Any) -> Any:
        first.extend([] if past is None or first else [past])
        return original(parameters, x, positions, mask, past and first[0], time)

    patch.setattr(gemma, "block", block)


def erf(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


TRAPS: dict[str, tuple[str, Trap]] = {
    # the prefix
    "words not scaled": ("a", instead(gemma, "embed", lambda original, table, ids, dtype: table[ids])),
    "words scaled twice": ("a", instead(gemma, "embed", lambda original, table, ids, dtype: original(table, ids, dtype=dtype) * table.shape[1] ** 0.5)),
    "pictures scaled too": ("a", instead(sampler, "join", lambda original, images, words: original(images * words.shape[-1] ** 0.5, words))),
    "words before pictures": ("a", instead(sampler, "join", lambda original, images, words: jnp.roll(original(images, words), words.shape[1], axis=1))),
    "cameras in another order": ("a", reversed_cameras),
    "absent camera seen": ("a", instead(sampler, "prefix_layout", lambda original, images, words, patches: original(images | True, words, patches=patches))),
    "padded words seen": ("a", instead(sampler, "prefix_layout", lambda original, images, words, patches: original(images, words | True, patches=patches))),
    "padding takes positions": ("a", of_layout("prefix_layout", lambda x: x._replace(positions=jnp.broadcast_to(jnp.arange(x.valid.shape[1]), x.valid.shape)))),
    "prompt causal": ("a", instead(sampler, "prefix_layout", words_causal)),
    "padded queries see the valid keys": ("a", of_layout("prefix_layout", lambda x: x._replace(mask=x.mask | x.valid[:, None, :]))),
    # the pictures
    "tower's last norm missing": ("a", instead(siglip, "finish", tower_unnormed)),
    "no position embedding": ("a", instead(siglip, "embed", lambda original, p, images, dtype: original({**p, "pos_embedding": 0 * p["pos_embedding"]}, images, dtype=dtype))),
    "patches column by column": ("a", instead(siglip, "embed", patches_by_column)),
    "pictures in [0, 1]": ("a", instead(siglip, "embed", lambda original, p, images, dtype: original(p, images / 2 + 0.5, dtype=dtype))),
    "pictures from BGR": ("a", instead(siglip, "embed", lambda original, p, images, dtype: original(p, images[..., ::-1], dtype=dtype))),
    "erf in the tower": ("a", value(siglip, "gelu", erf)),
    "tower's attention not scaled": ("a", einsum_of(siglip, "...qhd,...khd->...hqk", lambda q, k: (q * q.shape[-1] ** 0.5, k))),
    # the blocks
    "erf in Gemma": ("a", value(gemma, "gelu", erf)),
    "relu in Gemma": ("a", value(gemma, "gelu", jax.nn.relu)),
    "gate and up exchanged": ("a", instead(gemma, "feed_forward", lambda original, p, x: original({**p, "mlp/gating_einsum": p["mlp/gating_einsum"][::-1]}, x))),
    "scale without one": ("a", instead(gemma, "modulation", lambda original, *given: gemma.Modulation(original(*given).factor - 1))),
    "masked logits minus infinity": ("a", value(gemma, "MASKED", -jnp.inf)),
    "queries not scaled": ("a", einsum_of(gemma, "ntkgh,nskh->nkgts", lambda q, k: (q * q.shape[-1] ** 0.5, k))),
    "rotation of neighbours": ("a", value(gemma, "rotated", interleaved)),
    "another rotary base": ("a", value(gemma, "LONGEST_WAVE", 1e6)),
    "heads interleaved before the output": ("a", einsum_of(gemma, "ntmh,mhd->ntd", lambda x, w: (x, w.swapaxes(0, 1).reshape(w.shape)))),
    "keys and values exchanged": ("a", instead(gemma, "project", lambda original, *given: (lambda q, k, v: (q, v, k))(*original(*given)))),
    "pre-norm": ("a", norm_skipped),
    # the expert
    "suffix placed behind the padding": ("a", of_layout("suffix_layout", lambda x: x._replace(positions=x.positions * 0 + jnp.arange(x.valid.shape[1]) + x.mask.shape[2] - x.valid.shape[1]))),
    "suffix placed at the start": ("a", of_layout("suffix_layout", lambda x: x._replace(positions=x.positions * 0 + jnp.arange(x.valid.shape[1])))),
    "state sees actions": ("a", instead(sampler, "begins", lambda original, horizon, state: original(horizon, state=state).at[1].set(False))),
    "actions causal": ("a", instead(sampler, "begins", lambda original, horizon, state: original(horizon, state=state) | True)),
    "padding of the prefix seen": ("a", instead(sampler, "suffix_layout", lambda original, prefix, horizon, state: original(prefix, horizon=horizon, state=state)._replace(mask=jnp.concatenate([jnp.ones((len(prefix), horizon + state, prefix.shape[1]), bool), original(prefix, horizon=horizon, state=state).mask[:, :, prefix.shape[1] :]], axis=2)))),
    "keys of another block": ("a", last_cache),
    "time before action": ("a", instead(sampler, "mixture", lambda original, actions, waves: original(waves, actions))),
    "state ignored": ("a", instead(sampler, "embed_suffix", lambda original, p, state, actions, time: original(p, 0 * state, actions, time))),
    # the flow
    "step backwards": ("a", instead(sampler, "step_size", lambda original, steps: -original(steps))),
    "time from data to noise": ("a", instead(sampler, "clock", lambda original, steps: original(steps)[::-1])),
    "time as 1 - t": ("a", instead(sampler, "embed_suffix", lambda original, p, state, actions, time: original(p, state, actions, 1 - time))),
    "another shortest period": ("a", value(sampler, "SHORTEST", 4e-2)),
    "another longest period": ("a", value(sampler, "LONGEST", 1.0)),
    "cosine before sine": ("a", instead(sampler, "time_waves", lambda original, moment, width: jnp.roll(original(moment, width), width // 2, axis=-1))),
    "velocity of the first tokens": ("a", instead(sampler, "advance", first_tokens)),
    "noise of the other sign": ("a", instead(sampler, "embed_suffix", lambda original, p, state, actions, time: original(p, state, -actions, time))),
    # π0.5
    "gate missing": ("c", modulated(lambda by: by._replace(gate=None))),
    "shift missing": ("c", modulated(lambda by: by._replace(shift=None))),
    "scale and shift exchanged": ("c", modulated(lambda by: by._replace(factor=1 + by.shift, shift=by.factor - 1))),
    "adaptive scale without one": ("c", modulated(lambda by: by._replace(factor=by.factor - 1))),
    "time's last swish missing": ("c", instead(sampler, "time_condition", lambda original, p, moment: sampler.linear(p, "time_mlp_out", jax.nn.swish(sampler.linear(p, "time_mlp_in", sampler.time_waves(moment, 24)))))),
    "π0.5's final norm missing": ("c", norm_skipped),
    "π0.5's cameras in another order": ("c", reversed_cameras),
}


@lru_cache
def untouched(pack: Path) -> float:
    return parity(load(pack), pack).value


@pytest.mark.parametrize(("case", "trap"), TRAPS.values(), ids=TRAPS.keys())
def test_a_trap_turns_parity_red(case: str, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = there(case)
    with jax.disable_jit():
        assert untouched(pack) < 0.25
        adapter = load(pack)
        trap(adapter, monkeypatch)
        assert parity(adapter, pack).value > 2


def test_the_epsilon_of_the_tower_matters_where_patches_hardly_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """1e-5, LayerNorm's default elsewhere, is below a pack's tolerance on patches of variance one."""
    x, parameters = 1e-3 * np.random.default_rng(0).standard_normal((1, 4, 8), np.float32), {"n/scale": jnp.ones(8), "n/bias": jnp.zeros(8)}
    here = siglip.layer_norm(parameters, "n", jnp.asarray(x))
    monkeypatch.setattr(siglip, "EPS", 1e-5)
    assert float(jnp.abs(here - siglip.layer_norm(parameters, "n", jnp.asarray(x))).max()) > 0.1


# ---------------------------------------------------------------- mistakes of loading


@pytest.fixture(scope="module")
def leaves() -> dict[str, np.ndarray]:
    """A whole tree at mock sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        sizes = subjects.load(subjects.resolve("openpi:mock"), Runtime()).sizes  # type: ignore[attr-defined]
    leaf = random_leaf(sizes, seed=1)
    return {name: leaf(name) for name in leaf_shapes(sizes)}


def written(folder: Path, leaves: Mapping[str, np.ndarray]) -> OpenPI:
    """The adapter of a checkpoint with these leaves."""
    orbax.write(folder / "params", leaves)
    return opened(folder)


def opened(folder: Path, **options: Any) -> OpenPI:
    subject = subjects.resolve("openpi:mock")
    described = {name: subject.config[name] for name in ("action_horizon", "num_steps")}
    changed = replace(subject, scale="checkpoint", weights=Weights("directory", "0", folder), options=options, config=described)
    return subjects.load(changed, Runtime())  # type: ignore[return-value]


def swapped(name: str) -> str:
    """The two experts' names exchanged."""
    parts = name.split("/")
    if "llm" not in parts or "embedder" in parts:
        return name
    at = next(index for index, part in enumerate(parts) if part.removesuffix("_1") in {"q_einsum", "kv_einsum", "attn_vec_einsum", "mlp", "pre_attention_norm", "pre_ffw_norm", "final_norm"})
    parts[at] = parts[at].removesuffix("_1") if parts[at].endswith("_1") else f"{parts[at]}_1"
    return "/".join(parts)


def without(name: str) -> Callable[[dict], dict]:
    return lambda leaves: {key: leaf for key, leaf in leaves.items() if key != name}


def other(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], dict]:
    return lambda leaves: {**leaves, name: change(leaves[name])}


def spoiled(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flat[-1] = np.nan
    return x


SCALE = "PaliGemma/llm/layers/pre_ffw_norm_1/scale"
TREES: dict[str, tuple[Callable[[dict], dict], str]] = {
    "a leaf missing": (without(SCALE), r"1 leaves missing(.|\n)*pre_ffw_norm_1"),
    "a leaf left over": (lambda leaves: {**leaves, "PaliGemma/llm/layers/other/scale": leaves[SCALE]}, r"not π0's(.|\n)*layers/other"),
    "a leaf misshapen": (other(SCALE, lambda x: x[:, :-1]), r"another shape(.|\n)*pre_ffw_norm_1/scale \(3, 31\) instead of \(3, 32\)"),
    "one layer less": (other(SCALE, lambda x: x[:-1]), r"another shape(.|\n)*\(2, 32\) instead of \(3, 32\)"),
    "NaN in a leaf": (other(SCALE, spoiled), r"NaN(.|\n)*pre_ffw_norm_1"),
    "whole numbers": (other(SCALE, lambda x: x.astype(np.int32)), "no floating-point"),
    "experts exchanged": (lambda leaves: {swapped(name): leaf for name, leaf in leaves.items()}, "another shape"),
    "leaves below value, but one": (lambda leaves: {f"{name}/value" if name != SCALE else name: leaf for name, leaf in leaves.items()}, "not π0's"),
    "LoRA leaves": (lambda leaves: {**leaves, "PaliGemma/llm/layers/attn/q_einsum/lora_a": leaves[SCALE]}, r"LoRA run(.|\n)*1 leaves"),
    "one expert": (lambda leaves: {name: leaf for name, leaf in leaves.items() if "_1/" not in name.removeprefix("PaliGemma/img") or "img" in name}, "one expert, as π0-FAST"),
    "no vision": (lambda leaves: {name: leaf for name, leaf in leaves.items() if "/img/" not in name}, "not π0's"),
}


@pytest.mark.parametrize(("change", "match"), TREES.values(), ids=TREES.keys())
def test_an_unsound_tree_is_refused(change: Callable[[dict], dict], match: str, leaves: dict, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=match):
        written(tmp_path, change(leaves))


def test_value_leaves_that_are_not_stripped_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = there("c")
    monkeypatch.setattr(orbax, "_WRAPPED", "nothing")
    with pytest.raises(DamagedError, match="not π0's"):
        load(pack)


def test_value_leaves_are_read(leaves: dict, tmp_path: Path) -> None:
    adapter = written(tmp_path, {f"{name}/value": leaf for name, leaf in leaves.items()})
    assert adapter.unlike_checkpoint() == []


@pytest.fixture
def folder(leaves: dict, tmp_path: Path) -> Iterator[Path]:
    """A whole checkpoint without statistics."""
    orbax.write(tmp_path / "params", leaves)
    yield tmp_path


def statistics(folder: Path, *assets: str, width: int = 8) -> None:
    for asset in assets:
        (folder / "assets" / asset).mkdir(parents=True)
        rows = {"mean": [0.0] * width, "std": [1.0] * width, "q01": [-1.0] * width, "q99": [1.0] * width}
        (folder / "assets" / asset / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": rows, "actions": rows}}))


def truncated(folder: Path) -> None:
    data = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def to_safetensors(config: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / "params")
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "config.json").write_text(config)

    return change


def to_parameters(folder: Path) -> None:
    for path in (folder / "params").iterdir():
        path.rename(folder / path.name)
    (folder / "params").rmdir()


FOLDERS: dict[str, tuple[Callable[[Path], object], dict[str, Any], type[HarnessError], str]] = {
    "truncated data": (truncated, {}, DamagedError, "orbax cannot read"),
    "no description": (lambda folder: (folder / "params/_METADATA").unlink(), {}, DamagedError, "no whole orbax folder"),
    "nothing": (lambda folder: shutil.rmtree(folder / "params"), {}, MissingError, "no parameters"),
    "lerobot's layout": (to_safetensors('{"type": "pi0"}'), {}, DamagedError, r"lerobot's layout, type pi0(.|\n)*harness convert"),
    "the PyTorch layout": (to_safetensors('{"action_dim": 32}'), {}, DamagedError, r"PyTorch layout of openpi(.|\n)*harness convert"),
    "the folder inside": (to_parameters, {}, DamagedError, r"parameter folder(.|\n)*pass "),
    "statistics lost": (lambda folder: (folder / "_CHECKPOINT_METADATA").write_text('{"item_handlers": {"assets": "x"}}'), {}, MissingError, "statistics are not here"),
    "assets empty": (lambda folder: (folder / "assets").mkdir(), {}, MissingError, "statistics are not here"),
    "several statistics": (lambda folder: statistics(folder, "droid", "org/libero"), {}, UsageError, r"several datasets(.|\n)*droid, org/libero(.|\n)*options.norm_stats"),
    "unknown statistics": (lambda folder: statistics(folder, "droid"), {"norm_stats": "droit"}, UnknownNameError, "nearest is 'droid'"),
    "statistics of nothing": (lambda folder: statistics(folder, "droid", width=0), {}, DamagedError, "rows of finite numbers"),
    "another picture size": (lambda folder: None, {"image_resolution": [42, 42]}, DamagedError, r"42 x 42(.|\n)*4 patches of 14 x 14"),
    "no steps": (lambda folder: None, {"num_steps": 0}, UsageError, "no positive number"),
}


@pytest.mark.parametrize(("change", "options", "kind", "match"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_that_is_not_whole_is_refused(change: Callable[[Path], object], options: dict, kind: type[HarnessError], match: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(kind, match=match):
        opened(folder, **options)


def test_the_chosen_statistics_are_taken(folder: Path) -> None:
    statistics(folder, "droid", "org/libero", width=6)
    assert opened(folder, norm_stats="org/libero").state_width == 6


@pytest.mark.parametrize(
    ("runtime", "kind", "match"),
    [
        ({"attention": "sdpa"}, UsageError, r"explicit softmax(.|\n)*attention eager"),
        ({"dtype": "float16"}, UsageError, "float32 or bfloat16"),
        ({"device": "cuda:7"}, MissingError, "cuda"),
        ({"device": "tpu"}, HarnessError, "tpu"),
    ],
)
def test_another_runtime_is_refused(runtime: dict[str, Any], kind: type[HarnessError], match: str) -> None:
    with pytest.raises(kind, match=match):
        OpenPI.load(subjects.resolve("openpi:mock"), Runtime(**runtime))


# ---------------------------------------------------------------- bad input


def sample(**changed: Any) -> Sample:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return replace(Sample("one", "open the drawer", {"primary": picture, "wrist": picture}, np.zeros(8, np.float32)), **changed)


def mock(**options: Any) -> OpenPI:
    return subjects.load(replace(subjects.resolve("openpi:mock"), options=options), Runtime())  # type: ignore[return-value]


PICTURE = np.zeros((8, 8, 3), np.uint8)
SAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "camera missing": ({}, {"images": {"primary": PICTURE}}, r"no camera wrist(.|\n)*options.cameras"),
    "camera of another name": ({"cameras": ["top"]}, {}, "no camera top"),
    "more cameras than slots": ({"cameras": ["a", "b", "c", "d"]}, {}, "more cameras are named than the model has slots"),
    "no picture": ({}, {"images": {}}, "has no image"),
    "floating-point picture": ({}, {"images": dict.fromkeys(("primary", "wrist"), PICTURE / 1.0)}, "not an RGB picture"),
    "grey picture": ({}, {"images": dict.fromkeys(("primary", "wrist"), PICTURE[..., 0])}, "not an RGB picture"),
    "no instruction": ({}, {"instruction": " "}, "has no instruction"),
    "long instruction": ({}, {"instruction": "open it " * 20}, r"longer than the model takes(.|\n)*42 tokens(.|\n)*at most 24"),
    "short state": ({}, {"state": np.zeros(7)}, r"another width(.|\n)*7 numbers(.|\n)*8 numbers"),
    "state of NaN": ({}, {"state": np.full(8, np.nan)}, "finite numbers"),
    "states": ({}, {"state": np.zeros((2, 8))}, "finite numbers"),
}


@pytest.mark.parametrize(("options", "changed", "match"), SAMPLES.values(), ids=SAMPLES.keys())
def test_a_sample_that_does_not_fit_is_refused(options: dict, changed: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        mock(**options).encode([sample(**changed)])


INPUTS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "a camera missing": (lambda x: {k: v for k, v in x.items() if k != "image.base_0_rgb"}, "do not fit"),
    "another camera": (lambda x: {**x, "image.top": x["image.base_0_rgb"]}, "image.top"),
    "another size": (lambda x: {**x, "image.base_0_rgb": x["image.base_0_rgb"][:, :14]}, "do not fit"),
    "another state": (lambda x: {**x, "state": x["state"][:, :3]}, "do not fit"),
    "a mask of another length": (lambda x: {**x, "tokenized_prompt_mask": x["tokenized_prompt_mask"][:, 1:]}, "do not fit"),
    "an unknown token": (lambda x: {**x, "tokenized_prompt": x["tokenized_prompt"] + 10**6}, "does not know"),
    "fewer rows": (lambda x: {**x, "noise": x["noise"][:0]}, "do not fit"),
    "nothing": (lambda x: {}, "do not fit"),
}


@pytest.mark.parametrize(("change", "match"), INPUTS.values(), ids=INPUTS.keys())
def test_inputs_that_do_not_fit_are_refused(change: Callable[[dict], dict], match: str) -> None:
    adapter = mock()
    inputs = dict(adapter.encode([sample()]).inputs)
    with pytest.raises(UsageError, match=match):
        adapter.batch(change(inputs))


def test_fewer_steps_than_the_contract_has_are_told() -> None:
    adapter = mock()
    batch = adapter.encode([sample()]).with_inputs(num_steps=np.int32(1))
    with pytest.raises(UsageError, match=r"1 steps, so no expert\.t02\.final_norm"):
        adapter.capture(batch, [Point("expert", "final_norm", step=2)])


def test_no_framework_tuple_is_claimed() -> None:
    adapter = mock()
    with pytest.raises(UsageError, match="one scan"):
        adapter.framework_tuple(adapter.encode([sample()]), "lm")
