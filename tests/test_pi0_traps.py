"""Each trap of transformers' π0, put in on purpose, shows against openpi's and lerobot's own numbers: a table of mistakes and packs.

There is no pack of transformers itself: the others' checkpoints are converted, their inputs rewritten as its processor gives
them, and what both compute compared at the valid positions, with the tolerance of the pack.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness import registry, subjects
from harness.adapters import pi0
from harness.adapters.pi0 import PI0
from harness.layouts import _pi0_leaves, pi0_arrays
from harness.types import Runtime

pytest.importorskip("orbax.checkpoint")

GOLDENS = Path(__file__).resolve().parent.parent.parent / "shared/goldens"
# openpi b: three cameras, the third masked for one sample; openpi a: the second masked; lerobot b_old: no third camera
PACKS = {"openpi a": "openpi", "openpi b": "openpi", "lerobot_pi0 a": "lerobot_pi0", "lerobot_pi0 b_old": "lerobot_pi0"}
Trap = Callable[[PI0, pytest.MonkeyPatch], object]


def pack_of(case: str) -> Path:
    pack = GOLDENS / case.replace(" ", "/")
    if not pack.is_dir():
        pytest.skip(f"pack {case} is not on this machine")
    return pack


def load(case: str, folder: Path) -> PI0:
    if not (folder / "native").is_dir():
        registry.load("converters", "pi0")(pack_of(case) / "checkpoint", folder / "native")
    return subjects.load(subjects.resolve("pi0:checkpoint", checkpoint=folder / "native"), Runtime())  # type: ignore[return-value]


@lru_cache
def arrays(case: str, name: str) -> Mapping[str, np.ndarray]:
    return dict(np.load(pack_of(case) / f"{name}.npz"))


def inputs_of(case: str, adapter: PI0) -> dict[str, np.ndarray]:
    """The pack's inputs as transformers' processor gives them: image tokens of the shown cameras, the prompt, padding on the right."""
    given, expected, config = arrays(case, "inputs"), arrays(case, "expected"), adapter.model.config
    if PACKS[case] == "openpi":
        names = [name.removeprefix("image.") for name in given if name.startswith("image.")]
        pictures = [given[f"image.{name}"].transpose(0, 3, 1, 2) for name in names]
        shown = np.stack([given[f"image_mask.{name}"] for name in names], 1)
        words, valid, state = given["tokenized_prompt"], given["tokenized_prompt_mask"], given["state"]
    else:
        slots = [index for index in range(3) if f"preprocessed.image.{index}" in expected]
        pictures = [expected[f"preprocessed.image.{index}"] for index in slots]
        shown = np.stack([expected[f"preprocessed.image_mask.{index}"] for index in slots], 1)
        words, valid = given["observation.language.tokens"], given["observation.language.attention_mask"]
        state = expected.get("normalized.observation.state", given["observation.state"])
    image = shown.sum(1) * adapter.patches
    rows, masks = [], []
    for row, tokens in enumerate(image):
        rest = int(image.max() - tokens)
        rows.append([config.vlm_config.image_token_index] * int(tokens) + words[row].tolist() + [0] * rest)
        masks.append([1] * int(tokens) + valid[row].astype(int).tolist() + [0] * rest)
    state = np.pad(state, ((0, 0), (0, config.max_state_dim - state.shape[1])))
    pixels = {"pixel_values": np.stack(pictures, 1), "pixel_attention_mask": shown}
    return {"input_ids": np.array(rows), "attention_mask": np.array(masks), **pixels, "state": state, "noise": given["noise"], "num_steps": given["num_steps"]}


def excess(case: str, adapter: PI0) -> float:
    """The largest difference as a multiple of the pack's tolerance, over everything that both name, at valid positions."""
    expected, description = arrays(case, "expected"), json.loads((pack_of(case) / "pack.json").read_text())
    inputs = inputs_of(case, adapter)
    named, valid = adapter.upstream(inputs), expected["prefix.pad_mask"]
    own, found = inputs["attention_mask"].astype(bool), []
    for name, want in expected.items():
        if name not in named or name in ("prefix.pad_mask", "prefix.positions"):
            continue
        got = np.asarray(named[name].float())
        if name.startswith(("expert0.", "prefix.")) and want.shape[:2] == valid.shape:
            got, want = got[own], want[valid]
        atol, rtol = next((a, r) for pattern, a, r in description["tolerance"] if fnmatchcase(name, pattern))
        found.append(np.nan_to_num(np.abs(got - want) / (atol + rtol * np.abs(want)), nan=np.inf).max())
    assert len(found) > 50
    return float(max(found))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lru_cache(lambda case: tmp_path_factory.mktemp(case.replace(" ", "_")))


@pytest.mark.parametrize("case", PACKS)
def test_converted_weights_compute_what_upstream_did(case: str, folders: Callable[[str], Path]) -> None:
    assert excess(case, load(case, folders(case))) < 0.6


@pytest.mark.parametrize("case", PACKS)
def test_valid_positions_are_the_packs_own(case: str, folders: Callable[[str], Path]) -> None:
    adapter, expected = load(case, folders(case)), arrays(case, "expected")
    inputs = inputs_of(case, adapter)
    named, valid = adapter.upstream(inputs), inputs["attention_mask"].astype(bool)
    assert np.array_equal(named["prefix.positions"].numpy()[valid], expected["prefix.positions"][expected["prefix.pad_mask"]])


# ---------------------------------------------------------------- the network


def language(adapter: PI0) -> Any:
    return adapter.model.model.vlm.language_model


def wrapped(change: Callable[[Any], Any], *path: str) -> Trap:
    """The forward of the module at `path` of the core model with another result."""

    def trap(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
        module = adapter.model.get_submodule(".".join(path))
        original = module.forward
        patch.setattr(module, "forward", lambda *args, **kwargs: change(original(*args, **kwargs)))

    return trap


def words_scaled_twice(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    language(adapter).embed_tokens.embed_scale *= language(adapter).config.hidden_size**0.5


def words_unscaled(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    language(adapter).embed_tokens.embed_scale = torch.tensor(1.0)


def time_clock(change: Callable[[Any], Any]) -> Trap:
    def trap(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
        embeds = adapter.model.embed_action_time.sinusoid_embeds
        original = embeds.forward
        patch.setattr(embeds, "forward", lambda time: change((original, time)))

    return trap


def cameras_by_position(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    """Pictures are given to the image tokens in order, masked ones too."""
    core = adapter.model.model
    original = core.embed_prefix

    def embed_prefix(ids: torch.Tensor, pixels: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        return original(ids, pixels.flip(1), shown)

    patch.setattr(core, "embed_prefix", embed_prefix)


def masked_camera_kept(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    """A masked camera stays in the sequence as if it were shown."""
    given = inputs_of("openpi b", adapter)
    token, shown = adapter.model.config.vlm_config.image_token_index, np.ones_like(given["pixel_attention_mask"])
    words = [ids[(ids != token) & (mask > 0)] for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)]
    lengths = [shown.shape[1] * adapter.patches + len(ids) for ids in words]
    rows = np.zeros((len(words), max(lengths)), int)
    for row, ids in enumerate(words):
        rows[row, : lengths[row]] = [token] * (lengths[row] - len(ids)) + ids.tolist()
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    kept = adapter.forward(adapter.batch(given | {"input_ids": rows, "attention_mask": mask, "pixel_attention_mask": shown}))["actions"]
    patch.setattr(adapter, "call", lambda batch, original=adapter.call: original(batch) | {"actions": kept})


def prefill(**changed: Callable[[dict[str, torch.Tensor]], torch.Tensor | None]) -> Trap:
    """Other inputs of the prefill."""

    def trap(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
        original = adapter._prefill

        def inputs(batch: object, prefix: torch.Tensor) -> dict[str, Any]:
            found = original(batch, prefix)
            return found | {name: change(found) for name, change in changed.items()}

        patch.setattr(adapter, "_prefill", inputs)

    return trap


def cache_not_cut(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    """Every step also attends to the noisy actions of the steps before it."""
    from transformers import DynamicCache

    original = adapter.model.model.forward

    def forward(**inputs: Any) -> Any:
        masks, cache = inputs["attention_mask"], inputs["past_key_values"]
        more = cache.get_seq_length() - masks.shape[1]
        return original(**inputs | {"attention_mask": torch.cat([masks, masks.new_ones(len(masks), more)], dim=1)})

    patch.setattr(adapter.model.model, "forward", forward)
    patch.setattr(DynamicCache, "crop", lambda self, length: None)


def expert_causal(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    """Actions see only the actions before them."""
    from transformers.models.pi0 import modeling_pi0

    original = modeling_pi0.create_causal_mask
    patch.setattr(modeling_pi0, "create_causal_mask", lambda **inputs: original(**{**inputs, "block_sequence_ids": None}))


def state_sees_actions(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    from transformers.models.pi0 import modeling_pi0

    original = modeling_pi0.create_causal_mask
    patch.setattr(modeling_pi0, "create_causal_mask", lambda **inputs: original(**{**inputs, "block_sequence_ids": torch.zeros_like(inputs["block_sequence_ids"])}))


def suffix_from_zero(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    """The expert's positions start again."""
    original = adapter.model.model.dit.forward
    patch.setattr(adapter.model.model.dit, "forward", lambda **inputs: original(**inputs | {"position_ids": inputs["position_ids"] - inputs["position_ids"][:, :1]}))


def norm_without_one(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    """Gemma's weight without the one that its arithmetic adds."""
    for module in adapter.model.modules():
        if type(module).__name__ == "GemmaRMSNorm":
            module.weight.sub_(1.0)


def exact_gelu(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    for module in adapter.model.modules():
        for name in ("act_fn", "activation_fn"):
            if hasattr(module, name):
                setattr(module, name, nn.GELU())


def other_sampling(change: Callable[[float], float]) -> Trap:
    """The denoise loop with another clock: the time that the model is told."""

    def trap(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(pi0, "torch", SimpleNamespace(**{**vars(torch), "full": lambda size, value, **how: torch.full(size, change(value), **how)}))

    return trap


def state_unpadded_left(adapter: PI0, patch: pytest.MonkeyPatch) -> None:
    """Zeros before the state instead of behind it."""
    project = adapter.model.embed_action_time.state_proj
    original = project.forward
    patch.setattr(project, "forward", lambda state: original(state.roll(1, dims=-1)))


NETWORK: dict[str, tuple[str, Trap]] = {
    # the prefix
    "words scaled twice": ("lerobot_pi0 a", words_scaled_twice),
    "words unscaled": ("lerobot_pi0 a", words_unscaled),
    "pictures scaled like words": ("openpi b", wrapped(lambda x: x * x.shape[-1] ** 0.5, "model.vlm.multi_modal_projector")),
    "pictures divided by the root": ("openpi b", wrapped(lambda x: x / x.shape[-1] ** 0.5, "model.vlm.multi_modal_projector")),
    "cameras exchanged": ("openpi b", cameras_by_position),
    "a masked camera shown": ("openpi b", masked_camera_kept),
    "positions count padding": ("openpi b", prefill(position_ids=lambda found: torch.arange(found["attention_mask"].shape[1]).expand_as(found["attention_mask"]) + 3)),
    "positions from one": ("openpi a", prefill(position_ids=lambda found: found["position_ids"] + 1)),
    "causal prefix": ("lerobot_pi0 b_old", prefill(token_type_ids=lambda found: None)),
    "padding attended to": ("openpi b", prefill(attention_mask=lambda found: torch.ones_like(found["attention_mask"]))),
    # the expert
    "time in sine and cosine exchanged": ("openpi a", time_clock(lambda pair: pair[0](pair[1]).roll(1, dims=1).flip(1))),
    "time told backwards": ("openpi a", other_sampling(lambda time: 1.0 - time)),
    "time told at the step's end": ("openpi a", other_sampling(lambda time: time - 1 / 3)),
    "time not told": ("lerobot_pi0 a", time_clock(lambda pair: torch.zeros_like(pair[0](pair[1])))),
    "state shifted in its padding": ("lerobot_pi0 a", state_unpadded_left),
    "cache not cut": ("openpi b", cache_not_cut),
    "actions causal": ("openpi b", expert_causal),
    "state sees actions": ("openpi b", state_sees_actions),
    "positions of actions from zero": ("openpi b", suffix_from_zero),
    # both
    "norm without its one": ("lerobot_pi0 b_old", norm_without_one),
    "exact gelu": ("openpi b", exact_gelu),
    "pre-norm": ("openpi a", lambda adapter, patch: setattr(language(adapter), "norm", nn.Identity())),
    "SigLIP without its last norm": ("openpi a", lambda adapter, patch: setattr(adapter.model.model.vlm.vision_tower, "post_layernorm", nn.Identity())),
}


@pytest.mark.parametrize(("case", "trap"), NETWORK.values(), ids=NETWORK.keys())
def test_a_trap_leaves_the_tolerance(case: str, trap: Trap, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load(case, folders(case))
    with torch.no_grad():
        trap(adapter, monkeypatch)
        assert excess(case, adapter) > 2


# ---------------------------------------------------------------- the conversion


Change = Callable[[_pi0_leaves.Leaf], _pi0_leaves.Leaf]


def other(path: str, **changed: object) -> Change:
    """The leaf whose path ends so, with another order of axes or of names."""
    return lambda leaf: leaf._replace(**changed) if leaf.path.endswith(path) else leaf


def reversed_names(path: str) -> Change:
    return lambda leaf: leaf._replace(names=leaf.names[::-1]) if leaf.path.endswith(path) else leaf


def exchanged(first: tuple[str, str], second: tuple[str, str]) -> Change:
    """The leaves whose paths end so give their arrays to each other's tensors."""

    def change(leaf: _pi0_leaves.Leaf) -> _pi0_leaves.Leaf:
        for (path, own), (_, others) in ((first, second), (second, first)):
            if leaf.path.endswith(path):
                return leaf._replace(names=tuple(name.replace(own, others) for name in leaf.names))
        return leaf

    return change


CONVERSION: dict[str, tuple[str, Change]] = {
    "keys and values exchanged": ("openpi a", reversed_names("kv_einsum/w")),
    "gate and up exchanged": ("openpi a", reversed_names("gating_einsum")),
    "query and key of SigLIP exchanged": ("openpi b", exchanged(("query/kernel", "q_proj"), ("key/kernel", "k_proj"))),
    "the two LayerNorms exchanged": ("openpi a", exchanged(("LayerNorm_0/scale", "norm1"), ("LayerNorm_1/scale", "norm2"))),
    "heads inside of the head's own numbers": ("openpi b", other("attn_vec_einsum/w", torch="d hn")),
    "queries with heads inside": ("openpi b", other("q_einsum_1/w", torch="hn d")),
    "patches transposed": ("openpi b", other("img/embedding/kernel", torch="w c q p")),
}


@pytest.mark.parametrize(("case", "change"), CONVERSION.values(), ids=CONVERSION.keys())
def test_a_mistake_of_conversion_leaves_the_tolerance(case: str, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pi0_arrays.leaves
    monkeypatch.setattr(pi0_arrays, "leaves", lambda **how: tuple(map(change, original(**how))))
    assert excess(case, load(case, tmp_path)) > 2
