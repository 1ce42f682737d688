"""Each trap of RoboVLMs, put in on purpose, turns parity with upstream red: a table of mistakes and of the pack that sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness import subjects
from harness.adapters import _robovlms, _robovlms_config, _robovlms_head, _robovlms_weights, robovlms
from harness.adapters._robovlms_layout import Layout, layout
from harness.adapters.robovlms import RoboVLMs
from harness.contract.parity import parity
from harness.errors import DamagedError
from harness.types import Runtime

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ROOT.parent / "shared/goldens/robovlms"
# b has a window, two action tokens, a hand camera and padding; c is a stream that outgrows its window
PACKS = {"a": GOLDENS / "a", "b": ROOT / "fixtures/data/robovlms_tiny", "c": GOLDENS / "c"}
COMPARED = {"a": "*", "b": "*", "c": "rollout.*.act_head.pose"}  # of a stream the actions: a wrong window shows in the shape of the rest
Trap = Callable[[RoboVLMs, pytest.MonkeyPatch], object]
Network, Head = _robovlms.RoboVLM, _robovlms_head.PolicyHead


def load(pack: Path) -> RoboVLMs:
    return subjects.load(subjects.resolve("robovlms:checkpoint", checkpoint=pack / "checkpoint"), Runtime())  # type: ignore[return-value]


def laid_out(change: Callable[..., Layout]) -> Trap:
    """Another order of the sequence."""
    return lambda adapter, patch: patch.setattr(robovlms, "layout", change)


def cameras_exchanged(mask: Tensor, last: Tensor, **sizes: int) -> Layout:
    """The static picture stands where the hand's belongs, and the other way round."""
    placed = layout(mask, last, **sizes)
    start, latents = mask.shape[1], sizes["latents"]
    order = placed.order.clone()
    order[(placed.order >= start) & (placed.order < start + latents)] += latents
    order[(placed.order >= start + latents) & (placed.order < start + 2 * latents)] -= latents
    return placed._replace(order=order)


def action_last(mask: Tensor, last: Tensor, **sizes: int) -> Layout:
    """The last prompt token before the action tokens, which are read where they now stand."""
    order, actions = layout(mask, last, **sizes).order, sizes["actions"]
    order = torch.cat([order[:, : -actions - 1], order[:, -1:], order[:, -actions - 1 : -1]], dim=1)
    return layout(mask, last, **sizes)._replace(order=order, action_at=torch.arange(order.shape[1] - actions, order.shape[1]).expand(len(order), -1))


def last_position(mask: Tensor, last: Tensor, **sizes: int) -> Layout:
    """The last tokens of the sequence are taken for the action tokens."""
    placed = layout(mask, last, **sizes)
    return placed._replace(action_at=placed.action_at - placed.action_at.max() + placed.order.shape[1] - 1)


def images_after_text(mask: Tensor, last: Tensor, **sizes: int) -> Layout:
    """The pictures behind the prompt's text instead of behind its first token."""
    placed, length = layout(mask, last, **sizes), mask.shape[1]
    pictures = sizes["cameras"] * sizes["latents"]
    image, text = placed.order[:, 1 : 1 + pictures], placed.order[:, 1 + pictures : length - 1 + pictures]
    return placed._replace(order=torch.cat([placed.order[:, :1], text, image, placed.order[:, length - 1 + pictures :]], dim=1))


def before_each_rows_own_last(mask: Tensor, last: Tensor, **sizes: int) -> Layout:
    """The action tokens before a padded prompt's own last token, which is not what upstream does with a batch."""
    return layout(mask, mask.sum(1) - 1, **sizes)


def mask_ignored(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    text = adapter.model.backbone.text_model.model
    original = text.forward
    patch.setattr(text, "forward", lambda **inputs: original(**inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}))


def positions_compacted(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """Valid tokens are counted, so that padding takes no position."""
    text = adapter.model.backbone.text_model.model
    original = text.forward
    patch.setattr(text, "forward", lambda **inputs: original(**inputs, position_ids=2 + (inputs["attention_mask"].cumsum(1) - 1)))


def positions_from_zero(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """Positions without the offset of the padding index."""
    text = adapter.model.backbone.text_model.model
    original = text.forward
    patch.setattr(text, "forward", lambda **inputs: original(**inputs, position_ids=torch.arange(inputs["attention_mask"].shape[1]).expand_as(inputs["attention_mask"]).contiguous()))


def not_normalised(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    plain = SimpleNamespace(**{**vars(nn), "functional": SimpleNamespace(**{**vars(nn.functional), "normalize": lambda x, dim: x})})
    patch.setattr(_robovlms, "nn", plain)


def in_both_towers(change: Callable[[nn.Module], object]) -> Trap:
    """The hand camera's modules are others over the same weights."""

    def trap(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
        for eye in (adapter.model.backbone, getattr(adapter.model, "hand", None)):
            if eye is not None:
                change(eye)

    return trap


def class_token_dropped(eye: nn.Module) -> None:
    original = eye.image_to_text_projection.forward
    eye.image_to_text_projection.forward = lambda x: original(x[:, 1:])


def windows_tiled(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """Prompts repeated as a whole (a, b, a, b) beside pictures whose windows stay together (a, a, b, b)."""
    original = Network.context

    def context(self: Network, **inputs: Tensor) -> _robovlms.Context:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Tensor, "repeat_interleave", lambda x, times, dim: x.repeat(times, *[1] * (x.ndim - 1)))
            return original(self, **inputs)

    patch.setattr(Network, "context", context)


def pre_norm(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """The raw output of the last block instead of the final norm's."""
    adapter.model.backbone.text_model.model.layer_norm = nn.Identity()


def embed_scale_lost(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    adapter.model.backbone.text_model.model.embed_scale = 1.0


def images_and_action_unscaled(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """Only the words are scaled, as if the rest came ready."""
    text = adapter.model.backbone.text_model.model
    root, text.embed_scale = text.embed_scale, 1.0
    embed = text.embed_tokens.forward
    patch.setattr(text.embed_tokens, "forward", lambda ids: embed(ids) * root)


def sigmoid_on_the_gripper(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    adapter.model.act_head.gripper.mlp.append(nn.Sigmoid())


def no_tanh_on_the_pose(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    del adapter.model.act_head.actions.mlp[-1]


def latents_exchanged(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """Features of the action tokens joined in another order."""
    patch.setattr(Head, "_features", lambda self, tokens: tokens.flip(2).flatten(2))


def latents_interleaved(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Head, "_features", lambda self, tokens: tokens.transpose(2, 3).flatten(2))


def window_of_one(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """act_head.window_size of the configuration, which upstream overrides."""
    object.__setattr__(adapter.model.act_head.config, "window", 1)


def never_outgrown(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """The carried state goes on beyond the window."""
    object.__setattr__(adapter.model.act_head.config, "window", 10**6)


def state_not_carried(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """Every call starts from zero, as if there were no stream."""
    patch.setattr(Head, "step", Head.forward)


def state_kept_when_re_run(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """The window is re-run from the carried state instead of zero."""
    rnn, carried = adapter.model.act_head.rnn, [None]
    original = rnn.forward

    def forward(x: Tensor, state: Any = None) -> Any:
        states, carried[0] = original(x, carried[0] if x.shape[1] > 1 else state)
        return states, carried[0]

    patch.setattr(rnn, "forward", forward)


def not_reset(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """An episode begins with the memory of the one before."""
    patch.setattr(Head, "reset", lambda self: None)
    adapter.upstream(load_file(PACKS["c"] / "inputs.safetensors"))


def training_mode(adapter: RoboVLMs, patch: pytest.MonkeyPatch) -> None:
    """Upstream's trainer leaves the model in it."""
    adapter.model.train()


TRAPS: dict[str, tuple[str, Trap]] = {
    # the sequence
    "static before hand camera": ("b", laid_out(cameras_exchanged)),
    "pictures behind the text": ("b", laid_out(images_after_text)),
    "action tokens after the last token": ("a", laid_out(action_last)),
    "action tokens before each row's own last token": ("b", laid_out(before_each_rows_own_last)),
    "last token instead of the action token": ("a", laid_out(last_position)),
    "zero action token": ("a", lambda adapter, patch: adapter.model.action_token.zero_()),
    "windows tiled": ("b", windows_tiled),
    # the picture
    "post_layernorm missing": ("a", in_both_towers(lambda eye: setattr(eye.vision_model.model, "post_layernorm", nn.Identity()))),
    "pre_layrnorm missing": ("a", in_both_towers(lambda eye: setattr(eye.vision_model.model, "pre_layrnorm", nn.Identity()))),
    "features not of length one": ("a", not_normalised),
    "class token dropped": ("a", in_both_towers(class_token_dropped)),
    # the language model
    "mask ignored": ("b", mask_ignored),
    "positions compacted": ("b", positions_compacted),
    "positions from zero": ("a", positions_from_zero),
    "pre-norm": ("a", pre_norm),
    "embed_scale lost": ("a", embed_scale_lost),
    "only the words scaled": ("a", images_and_action_unscaled),
    "training mode": ("a", training_mode),
    # the head
    "sigmoid on the gripper": ("a", sigmoid_on_the_gripper),
    "no tanh on the pose": ("a", no_tanh_on_the_pose),
    "action tokens exchanged": ("b", latents_exchanged),
    "action tokens interleaved": ("b", latents_interleaved),
    # the stream
    "window of act_head": ("c", window_of_one),
    "window never outgrown": ("c", never_outgrown),
    "state not carried": ("c", state_not_carried),
    "state kept when the window is re-run": ("c", state_kept_when_re_run),
    "not reset": ("c", not_reset),
}


def there(case: str) -> Path:
    if not PACKS[case].is_dir():
        pytest.skip(f"pack {case} is not on this machine")
    return PACKS[case]


@pytest.fixture
def pack(request: pytest.FixtureRequest) -> Path:
    return there(request.param)


@lru_cache
def untouched(pack: Path) -> float:
    return parity(load(pack), pack).value


@pytest.mark.parametrize(("case", "trap"), TRAPS.values(), ids=TRAPS.keys())
def test_a_trap_turns_parity_red(case: str, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = there(case)
    assert untouched(pack) < 0.5
    adapter = load(pack)
    with torch.no_grad():
        trap(adapter, monkeypatch)
        assert parity(adapter, pack, tensors=COMPARED[case]).value > 10


@pytest.mark.parametrize("pack", ["a", "b"], indirect=True)
def test_the_sigmoid_shows_in_the_gripper_only(pack: Path) -> None:
    adapter = load(pack)
    sigmoid_on_the_gripper(adapter, pytest.MonkeyPatch())
    assert parity(adapter, pack, tensors="act_head.gripper").value > 10
    assert parity(adapter, pack, tensors="act_head.pose").value < 1


# ---------------------------------------------------------------- mistakes of loading are refused


def chunk_of_act_head(patch: pytest.MonkeyPatch) -> None:
    """fwd_pred_next_n where the configuration repeats it, which upstream overrides."""
    original = _robovlms_config.RoboVLMConfig.from_dict.__func__
    changed = classmethod(lambda cls, config, *others, **named: original(cls, {**config, **{"fwd_pred_next_n": config["act_head"]["fwd_pred_next_n"]}}, *others, **named))
    patch.setattr(_robovlms_config.RoboVLMConfig, "from_dict", changed)


def prefix_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_robovlms_weights, "native_name", lambda published: published)


def one_prefix_stripped(patch: pytest.MonkeyPatch) -> None:
    """What document 003's script did to the published file: `module.` only."""
    patch.setattr(_robovlms_weights, "native_name", lambda published: published.replace("module.", ""))


@pytest.mark.parametrize(
    ("pack", "trap", "match"),
    [
        ("a", chunk_of_act_head, r"tensors of another shape(.|\n)*act_head"),
        ("a", prefix_kept, r"\d{3} tensors missing(.|\n)*act_head"),
        ("b", prefix_kept, r"\d{3} tensors missing"),
        ("a", one_prefix_stripped, r"\d{3} tensors missing"),
    ],
    ids=["chunk of act_head", "model. kept", "module. kept", "only module. stripped"],
    indirect=["pack"],
)
def test_a_mistake_of_loading_is_refused(pack: Path, trap: Callable[[pytest.MonkeyPatch], None], match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trap(monkeypatch)
    with pytest.raises(DamagedError, match=match):
        load(pack)


@pytest.mark.parametrize("pack", ["a"], indirect=True)
def test_the_chunk_of_act_head_would_show_in_the_widths(pack: Path, tmp_path: Path) -> None:
    """The top level's value and act_head's differ in the pack, so that the trap above is one."""
    copy = Path(shutil.copytree(pack / "checkpoint", tmp_path / "copy", copy_function=shutil.copyfile))
    config = json.loads((copy / "config.json").read_text())
    assert config["act_head"]["fwd_pred_next_n"] != config["fwd_pred_next_n"]
    config["act_head"]["fwd_pred_next_n"] = config["act_head"]["window_size"] = 99
    (copy / "config.json").write_text(json.dumps(config))
    assert _robovlms_weights.load_config(copy) == _robovlms_weights.load_config(pack / "checkpoint")
