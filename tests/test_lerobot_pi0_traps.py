"""Each trap of lerobot's π0, put in on purpose, turns parity with upstream red or is refused: a table of mistakes and the pack that sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness import subjects
from harness.adapters import _lerobot_image, _lerobot_layout, _lerobot_network, _lerobot_points, _lerobot_weights, lerobot_pi0
from harness.adapters import _torch as capture
from harness.adapters._lerobot_network import PI0
from harness.adapters._lerobot_norm import ScaledRMSNorm
from harness.adapters._lerobot_statistics import Statistics
from harness.adapters.lerobot_pi0 import LerobotPI0
from harness.contract.parity import parity
from harness.errors import ContractError, DamagedError
from harness.types import Runtime

GOLDENS = Path(__file__).resolve().parents[2] / "shared/goldens/lerobot_pi0"
# a: today's layout, third camera absent, padded words; b_old: old names and buffers, pictures that are not square
Trap = Callable[[LerobotPI0, pytest.MonkeyPatch], object]


def load(pack: Path) -> LerobotPI0:
    return subjects.load(subjects.resolve("lerobot_pi0:checkpoint", checkpoint=pack / "checkpoint"), Runtime())  # type: ignore[return-value]


def there(case: str) -> Path:
    if not (GOLDENS / case).is_dir():
        pytest.skip(f"pack {case} is not on this machine")
    return GOLDENS / case


@lru_cache
def untouched(pack: Path) -> float:
    return parity(load(pack), pack).value


# ---------------------------------------------------------------- ways to put a mistake in


def function(name: str, change: Callable[..., Any], where: object = _lerobot_network) -> Trap:
    """Another function instead of a module's or class's own, given the right one as its first argument."""

    def trap(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
        right = getattr(where, name)
        patch.setattr(where, name, lambda *args, **kwargs: change(right, *args, **kwargs))

    return trap


def output_of(path: str, change: Callable[[Tensor], Tensor]) -> Trap:
    """A module whose output is another."""

    def trap(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
        module = adapter.model.get_submodule(path)
        right = module.forward
        module.forward = lambda *args, **kwargs: change(right(*args, **kwargs))

    return trap


def every(kind: str, name: str, value: object) -> Trap:
    """One attribute of every module of a class."""

    def trap(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
        found = [module for module in adapter.model.modules() if type(module).__name__ == kind]
        assert found
        for module in found:
            setattr(module, name, value)

    return trap


def configured(**changed: object) -> Trap:
    """Another configuration, as if it had been read so."""

    def trap(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
        adapter._config = adapter.model.config = replace(adapter._config, **changed)

    return trap


def identity(path: str) -> Trap:
    return lambda adapter, patch: adapter.model.set_submodule(path, nn.Identity())


def root(adapter: LerobotPI0) -> float:
    return adapter.model.config.sizes.vlm.width ** 0.5


def words_scaled(power: int) -> Trap:
    return lambda adapter, patch: function("embed_words", lambda right, *args: right(*args) * root(adapter) ** power, PI0)(adapter, patch)


def images_scaled(power: int) -> Trap:
    return lambda adapter, patch: output_of("projector", lambda x: x * root(adapter) ** power)(adapter, patch)


def weight_without_one(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """Llama's norm, whose weight is the factor itself."""
    patch.setattr(ScaledRMSNorm, "forward", lambda self, x: self._norm(x.float()) * self.weight)


def cameras_reversed(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    configured(image_keys=adapter._config.image_keys[::-1])(adapter, patch)


def absent_attended(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """An absent camera's picture of -1 counts as a picture."""
    right = adapter.model.prefix
    patch.setattr(adapter.model, "prefix", lambda pixels, shown, *rest: right(pixels, torch.ones_like(shown), *rest))


def absent_dropped(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """transformers' own π0: the sequence gets shorter."""
    right = adapter.model.prefix
    patch.setattr(adapter.model, "prefix", lambda pixels, shown, *rest: right(pixels[:, :2], shown[:, :2], *rest))


def picture(change: Callable[..., Tensor]) -> Trap:
    return function("prepare", change, lerobot_pi0)


def state_not_normalised(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    adapter._statistics = Statistics(known=adapter._statistics.known)


def statistics_reversed(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """Each number of the state is normalised by another one's statistics."""
    scaling = adapter._statistics.state
    adapter._statistics = adapter._statistics._replace(state=replace(scaling, low=scaling.low.flip(0), high=scaling.high.flip(0)))


def state_padded_in_front(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    function("suffix", lambda right, self, state, *rest: right(self, state.roll(1, dims=1), *rest), PI0)(adapter, patch)


def euler(sign: float) -> Trap:
    """The velocity is followed in another direction or at another pace."""
    return function("denoise", lambda right, *args: right(*args) * sign, PI0)


def keys_elsewhere(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """The cache holds keys of other positions than those that the suffix goes on from."""
    right = adapter.model.prefill
    patch.setattr(adapter.model, "prefill", lambda prefix: right(prefix._replace(positions=prefix.positions + torch.arange(prefix.positions.shape[1]) // 4)))


def actions_from_the_front(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """The state token's output is taken for the first action's."""
    output_of("expert", lambda output: type(output)(last_hidden_state=output.last_hidden_state.roll(1, dims=1)))(adapter, patch)


def time_first(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """Time and action are joined in the other order."""
    module = adapter.model.action_time_mlp_in
    right = module.forward
    module.forward = lambda x: right(x.roll(x.shape[-1] // 2, dims=-1))


def point_of(stream: str, **changed: object) -> Trap:
    """A stream is captured at another side or module than its own."""

    def changed_clauses(right: Callable[..., dict], *args: object, **kwargs: object) -> dict:
        return {point: replace(clause, **changed) if point.stream == stream else clause for point, clause in right(*args, **kwargs).items()}

    return function("pi0_clauses", changed_clauses, lerobot_pi0)


def first_of_the_batch(adapter: LerobotPI0, patch: pytest.MonkeyPatch) -> None:
    """lerobot's newer norms give (out, gate); output[0] of a tensor is its first sample."""
    patch.setattr(capture, "select", lambda point, output, element: output[:1].expand_as(output) if isinstance(output, Tensor) else output[element])


def causal(right: Callable[[Tensor], Tensor], mask: Tensor) -> Tensor:
    return right(mask).tril()


def state_sees_actions(right: Callable[..., Tensor], mask: Tensor, length: int) -> Tensor:
    attention = right(mask, length).clone()
    attention[:, 0, mask.shape[1] :] = True
    return attention


def actions_causal(right: Callable[..., Tensor], mask: Tensor, length: int) -> Tensor:
    return torch.cat([right(mask, length)[:, :, :-length], torch.ones(len(mask), length, length).tril().bool()], dim=2)


def prefix_unmasked(right: Callable[..., Tensor], mask: Tensor, length: int) -> Tensor:
    return right(torch.ones_like(mask), length)


NORM = "language_model.norm"
TRAPS: dict[str, tuple[str, Trap]] = {
    # embeddings
    "words scaled twice": ("a", words_scaled(1)),
    "words scaled twice, old layout": ("b_old", words_scaled(1)),
    "words not scaled": ("a", words_scaled(-1)),
    "pictures scaled": ("a", images_scaled(1)),
    "pictures scaled, old layout": ("b_old", images_scaled(1)),
    "pictures divided, as transformers once did": ("b_old", images_scaled(-1)),
    # the prefix
    "positions count padding": ("a", function("prefix_positions", lambda right, mask: torch.arange(mask.shape[1]).expand_as(mask))),
    "positions from one": ("b_old", function("suffix_positions", lambda right, *args: right(*args) + 1)),
    "causal prefix": ("a", function("prefix_attention", causal)),
    "padding attended": ("a", function("prefix_attention", lambda right, mask: right(torch.ones_like(mask)))),
    "cameras in another order": ("a", cameras_reversed),
    "cameras in another order, old layout": ("b_old", cameras_reversed),
    "absent camera attended": ("a", absent_attended),
    "absent camera dropped": ("a", absent_dropped),
    "masked with infinity": ("a", lambda adapter, patch: patch.setattr(_lerobot_network, "MASKED", -torch.inf)),
    # pictures
    "old padding in the middle": ("b_old", lambda adapter, patch: patch.setattr(_lerobot_image, "padded_left_top", _lerobot_image.padded_around)),
    "old padding to the right and below": ("b_old", picture(lambda right, x, **how: right(x.flip(2, 3), **how).flip(2, 3))),
    "picture in [0, 1]": ("a", picture(lambda right, x, **how: (right(x, **how) + 1) / 2)),
    "padded after the scaling": ("b_old", picture(lambda right, x, **how: right((x + 1) / 2, **how))),
    "channels exchanged": ("a", picture(lambda right, x, **how: right(x.flip(1), **how))),
    "rows and columns exchanged": ("a", picture(lambda right, x, **how: right(x.transpose(2, 3), **how))),
    "vision post_layernorm missing": ("a", identity("vision_tower.post_layernorm")),
    "vision with exact gelu": ("a", every("SiglipMLP", "activation_fn", nn.GELU())),
    "patch positions missing": ("a", lambda adapter, patch: adapter.model.vision_tower.embeddings.position_embedding.weight.zero_()),
    # Gemma
    "final norm missing": ("a", identity(NORM)),
    "final norm of the expert missing": ("a", identity("expert.norm")),
    "norm weights without the one": ("a", weight_without_one),
    "exact gelu": ("a", every("GemmaMLP", "act_fn", nn.GELU())),
    "attention not scaled": ("a", every("GemmaAttention", "scaling", 1.0)),
    "half precision": ("a", lambda adapter, patch: adapter.model.language_model.layers.bfloat16().float()),
    # the expert
    "suffix positions after the padding": ("a", function("suffix_positions", lambda right, mask, length: right(torch.ones_like(mask), length))),
    "suffix sees the padding": ("a", function("suffix_attention", prefix_unmasked)),
    "state sees the actions": ("a", function("suffix_attention", state_sees_actions)),
    "actions causal": ("a", function("suffix_attention", actions_causal)),
    "keys at other positions": ("a", keys_elsewhere),
    "actions read from the front": ("a", actions_from_the_front),
    "state not normalised": ("b_old", state_not_normalised),
    "state normalised in another order": ("b_old", statistics_reversed),
    "state padded in front": ("a", state_padded_in_front),
    # time and noise
    "time runs up": ("a", euler(-1.0)),
    "steps twice as long": ("a", euler(2.0)),
    "time from data to noise": ("a", function("time_embedding", lambda right, time, *rest: right(1 - time, *rest))),
    "cosines before sines": ("a", function("time_embedding", lambda right, time, width, *rest: right(time, width, *rest).roll(width // 2))),
    "shortest period another": ("a", configured(min_period=4e-2)),
    "longest period another": ("b_old", configured(max_period=1e4)),
    "time before action": ("a", time_first),
    "relu for silu": ("a", lambda adapter, patch: patch.setattr(nn.functional, "silu", nn.functional.relu)),
    # what is captured
    "post_attn after its norm": ("a", point_of("post_attn", side="output")),
    "first sample for the batch": ("a", first_of_the_batch),
    "names one layer off": ("a", function("upstream_names", lambda right, values: right({replace(p, layer=None if p.layer is None else (p.layer + 1) % 3): x for p, x in values.items()}), lerobot_pi0)),
    "first step for all": ("a", point_of("output", call=0)),
}


@pytest.mark.parametrize(("case", "trap"), TRAPS.values(), ids=TRAPS.keys())
def test_a_trap_turns_parity_red(case: str, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = there(case)
    assert untouched(pack) < 0.5
    adapter = load(pack)
    with torch.no_grad():
        trap(adapter, monkeypatch)
        try:
            assert parity(adapter, pack).value > 2
        except ContractError as error:  # another shape than upstream's is red as well
            assert "another shape" in str(error)


def test_a_mean_over_padding_is_not_upstreams() -> None:
    expected = np.load(there("a") / "expected.npz")
    naive = expected["expert0.final_norm.output"].mean(1)
    assert np.abs(naive - expected["expert0.final_norm.output.masked_mean"]).max() > 100 * 1e-4


def test_float32_shows_in_the_time_embedding() -> None:
    time, width = torch.tensor(0.7), 1024
    exact = _lerobot_network.time_embedding(time, width, 4e-3, 4.0)
    periods = 4e-3 * (4.0 / 4e-3) ** np.linspace(0.0, 1.0, width // 2)
    oracle = np.concatenate([wave(np.float64(np.float32(0.7)) / periods * 2 * np.pi) for wave in (np.sin, np.cos)])
    assert np.abs(exact.numpy() - oracle).max() < 1e-10
    single = np.float32(0.7) / periods.astype(np.float32) * np.float32(2 * np.pi)
    assert np.abs(np.concatenate([np.sin(single), np.cos(single)]) - oracle).max() > 2e-5


# ---------------------------------------------------------------- mistakes of loading are refused


def old_names_kept(patch: pytest.MonkeyPatch) -> None:
    """What today's lerobot does with an old file: it prints a warning and keeps random weights."""
    patch.setattr(_lerobot_layout, "new_name", lambda name: name)


def model_added_twice(patch: pytest.MonkeyPatch) -> None:
    right = _lerobot_layout.new_name
    patch.setattr(_lerobot_layout, "new_name", lambda name: name if name.startswith(_lerobot_layout.BUFFERS) else f"model.{right(name)}")


def published_head_shape(patch: pytest.MonkeyPatch) -> None:
    """The published model's heads and depth taken for granted."""
    right = _lerobot_weights.stored_sizes

    def sizes(*args: Any, **kwargs: Any) -> Any:
        found = right(*args, **kwargs)
        return replace(found, vlm=replace(found.vlm, num_heads=8, head_dim=256))

    patch.setattr(_lerobot_weights, "stored_sizes", sizes)


@pytest.mark.parametrize(
    ("case", "trap", "match"),
    [
        ("b_old", old_names_kept, "tensors missing from the checkpoint"),
        ("a", model_added_twice, "tensors missing from the checkpoint"),
        ("a", published_head_shape, "tensors of another shape"),
    ],
    ids=["old names kept", "model. twice", "published heads"],
)
def test_a_mistake_of_loading_is_refused(case: str, trap: Callable[[pytest.MonkeyPatch], None], match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = there(case)
    trap(monkeypatch)
    with pytest.raises(DamagedError, match=match):
        load(pack)


def test_the_output_layer_does_not_win_over_the_embedding(tmp_path: Path) -> None:
    """transformers' loader lets lm_head win where a file has both."""
    pack = Path(shutil.copytree(there("a"), tmp_path / "pack", copy_function=shutil.copyfile))
    file = pack / "checkpoint/model.safetensors"
    state = load_file(file)
    state[_lerobot_layout.EMBEDDING] = state[_lerobot_layout.HEAD].clone()
    state[_lerobot_layout.HEAD] += 1.0
    save_file(state, file)
    assert parity(load(pack), pack).value < 0.5
    state[_lerobot_layout.EMBEDDING], state[_lerobot_layout.HEAD] = state[_lerobot_layout.HEAD], state[_lerobot_layout.EMBEDDING]
    save_file(state, file)
    assert parity(load(pack), pack).value > 2


def test_the_tiny_packs_sizes_are_not_those_their_configuration_names() -> None:
    """So that a loader which believes the variant would be seen."""
    config = json.loads((there("a") / "checkpoint/config.json").read_text())
    assert config["paligemma_variant"] == "gemma_2b"
    assert load(there("a")).model.config.sizes.vlm.width != 2048


def test_the_traps_speak_of_modules_that_exist() -> None:
    assert {"lm.final_norm", "expert.t00.final_norm"} <= {str(point) for point in _lerobot_points.pi0_clauses(load(there("a"))._config, cameras=3, steps=3)}
