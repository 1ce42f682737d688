"""Each trap of SpatialVLA, put in on purpose, turns parity with upstream red: a table of mistakes and of the pack that sees them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from harness import subjects
from harness.adapters import _spatialvla
from harness.adapters._spatialvla_processor import INTRINSICS
from harness.adapters.spatialvla import SpatialVLA
from harness.contract.parity import parity
from harness.types import Batch, Runtime

ROOT = Path(__file__).resolve().parent.parent
# b has padding, a window, spatial tokens and epsilons that matter; only a has two depth heads
PACKS = {"a": ROOT.parent / "shared/goldens/spatialvla/a", "b": ROOT / "fixtures/data/spatialvla_tiny"}
Network = _spatialvla.SpatialVLA
Trap = Callable[[SpatialVLA, pytest.MonkeyPatch], object]


def load(pack: Path) -> SpatialVLA:
    return subjects.load(subjects.resolve("spatialvla:checkpoint", checkpoint=pack / "checkpoint"), Runtime())  # type: ignore[return-value]


def on_inputs(**change: Callable[[Tensor], Tensor]) -> Trap:
    """Model inputs changed on their way in."""

    def trap(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
        original = SpatialVLA.batch

        def batch(self: SpatialVLA, inputs: dict[str, Tensor], sample_ids: list[str] | None = None) -> Batch:
            return original(self, {**inputs, **{name: new(inputs[name]) for name, new in change.items()}}, sample_ids)

        patch.setattr(SpatialVLA, "batch", batch)

    return trap


def on_modules(kind: str, change: Callable[[nn.Module], object]) -> Trap:
    """Every module of a class, by its name; the trap must find one."""

    def trap(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
        found = [change(module) for module in adapter.model.modules() if type(module).__name__ == kind]
        assert found

    return trap


def replaced(name: str, new: object, where: object = _spatialvla) -> Trap:
    return lambda adapter, patch: patch.setattr(where, name, new)


def interpolated(**other: dict) -> Trap:
    """Every resize of this family's own code with other options: by name, what stands for what."""

    def interpolate(x: Tensor, **options: object) -> Tensor:
        return functional.interpolate(x, **{name: other.get(name, {}).get(value, value) for name, value in options.items()})

    return on_functional(interpolate=interpolate)


def on_functional(**changed: Callable[..., Tensor]) -> Trap:
    """Other functions of torch.nn.functional for this family's own code, not for transformers'."""
    return replaced("functional", SimpleNamespace(**{**vars(functional), **changed}))


def scaled(embedding: Callable[[Tensor, float], Tensor]) -> Trap:
    """The language model's entry recomputed from the merged, unscaled embeddings."""

    def trap(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
        root = adapter.model.language_model.config.hidden_size**0.5
        original = Network.attend
        patch.setattr(Network, "attend", lambda self, x, *masks: original(self, embedding(x / root, root), *masks))

    return trap


def spatial_rows_of_the_vocabulary(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
    """Action tokens take the rows that the checkpoint stores for them in embed_tokens."""
    stored = load_file(PACKS["b"] / "checkpoint/model.safetensors")["language_model.model.embed_tokens.weight"]
    patch.setattr(Network, "embed", lambda self, ids: functional.embedding(ids, stored))


def siglip_epsilon(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
    for part in adapter.model.vision_tower.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6


def octaves_by_function(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
    """All coordinates, then all sines, then all cosines, instead of the three for each coordinate."""

    def forward(self: _spatialvla.Ego3D, xyz: Tensor) -> Tensor:
        x = (xyz - xyz.new_tensor([0.0, 0.0, 2.0]).repeat(xyz.shape[-1] // 3)) / 2
        phase = (x[..., None] * 2 ** torch.arange(self.octaves, dtype=x.dtype)).flatten(-2)
        return self.position_embedding_head(torch.cat([x, phase.sin(), phase.cos()], dim=-1))

    patch.setattr(_spatialvla.Ego3D, "forward", forward)


def points_row_by_row(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
    """The points of the picture row by row, cut into as many pieces as there are patches."""
    original = Network.points

    def points(self: Network, depth: Tensor, intrinsic: Tensor) -> Tensor:
        xyz, reso = original(self, depth, intrinsic), self.config.ego3d_patch_reso
        grid = depth.shape[-1] // self.config.vision.patch_size
        return xyz.unflatten(1, (grid, grid)).unflatten(-1, (reso, reso, 3)).permute(0, 1, 3, 2, 4, 5).flatten(1, 4).reshape(xyz.shape)

    patch.setattr(Network, "points", points)


def other_depth_head(adapter: SpatialVLA, patch: pytest.MonkeyPatch) -> None:
    """The router's vote for kitti where it votes for nyu."""
    head = adapter.model.vision_zoe_model.metric_head.mlp_classifier
    original = head.forward
    patch.setattr(head, "forward", lambda x: -original(x))


def set_to(**values: object) -> Callable[[nn.Module], object]:
    return lambda module: [setattr(module, name, value) for name, value in values.items()]


def causal(mask: Tensor, prompt: int, original: Callable[[Tensor, int], Tensor] = _spatialvla.allowed) -> Tensor:
    return original(mask, 0)


def padding_seen(mask: Tensor, prompt: int, original: Callable[[Tensor, int], Tensor] = _spatialvla.allowed) -> Tensor:
    return original(torch.ones_like(mask), prompt)


def window_both_ways(allowed: Tensor, window: int) -> Tensor:
    return allowed & torch.ones_like(allowed).tril(-window).logical_not() & torch.ones_like(allowed).triu(window).logical_not()


def window_off_by_one(allowed: Tensor, window: int, original: Callable[[Tensor, int], Tensor] = _spatialvla.windowed) -> Tensor:
    return original(allowed, window + 1)


TRAPS: dict[str, tuple[str, Trap]] = {
    # the language model
    "attention soft cap lost": ("b", on_modules("Gemma2Attention", set_to(attn_logit_softcapping=None))),
    "final soft cap lost": ("b", lambda adapter, patch: setattr(adapter.model.language_model.config, "final_logit_softcapping", None)),
    "causal mask": ("b", replaced("allowed", causal)),
    "padded keys kept": ("b", replaced("allowed", padding_seen)),
    "window dropped": ("b", replaced("windowed", lambda allowed, window: allowed)),
    "window one too wide": ("b", replaced("windowed", window_off_by_one)),
    "window on future keys too": ("b", replaced("windowed", window_both_ways)),
    "window on odd layers": ("b", lambda adapter, patch: adapter.model.language_model.config.layer_types.reverse()),
    "embedding not scaled": ("b", scaled(lambda x, root: x)),
    "embedding scaled twice": ("b", scaled(lambda x, root: x * root * root)),
    "gelu without tanh in Gemma2": ("b", on_modules("Gemma2MLP", set_to(act_fn=nn.GELU()))),
    "norm weight without one added": ("b", on_modules("Gemma2RMSNorm", lambda norm: norm.weight.sub_(1))),
    "Gemma2's default norm epsilon": ("b", on_modules("Gemma2RMSNorm", set_to(eps=1e-6))),
    "queries scaled by the head's width": ("b", on_modules("Gemma2Attention", set_to(scaling=8**-0.5))),
    "default rotary base": ("b", on_modules("Gemma2RotaryEmbedding", lambda x: x.inv_freq.copy_(10000.0 ** -(torch.arange(4) / 4)))),
    "spatial tokens from embed_tokens": ("b", spatial_rows_of_the_vocabulary),
    # the picture
    "normalised by the processor too": ("b", on_inputs(pixel_values=_spatialvla.normalised)),
    "not normalised": ("b", replaced("normalised", lambda pixels: pixels)),
    "gelu without tanh in SigLIP": ("b", on_modules("SiglipMLP", set_to(activation_fn=nn.GELU()))),
    "SigLIP's default norm epsilon": ("b", siglip_epsilon),
    "post_layernorm missing": ("b", lambda adapter, patch: setattr(adapter.model.vision_tower, "post_layernorm", nn.Identity())),
    # depth and space
    "depth skipped": ("b", on_modules("Ego3D", lambda ego3d: [layer.zero_() for layer in ego3d.position_embedding_head[-1].parameters()])),
    "intrinsic of another camera": ("b", on_inputs(intrinsic=lambda k: k * torch.tensor([[0.5], [0.5], [1.0]]))),
    "intrinsic not scaled to the picture": ("b", on_inputs(intrinsic=lambda k: torch.tensor(INTRINSICS["default"]["intrinsic"]))),
    "tanh gelu in BEiT": ("b", on_modules("BeitMLP", set_to(activation_fn=nn.GELU(approximate="tanh")))),
    "BEiT's layer scale at its initial value": ("b", on_modules("BeitLayer", lambda x: (x.lambda_1.fill_(0.1), x.lambda_2.fill_(0.1)))),
    "kitti's head instead of nyu's": ("a", other_depth_head),
    "picture padded with zeros": ("b", on_functional(pad=lambda x, margins, mode: functional.pad(x, margins))),
    "bilinear resize": ("b", interpolated(mode={"bicubic": "bilinear"})),
    "corners not aligned": ("b", interpolated(align_corners={True: False})),
    "depth sampled, not averaged": ("b", interpolated(mode={"area": "nearest"})),
    "octaves grouped by function": ("b", octaves_by_function),
    "points in the order of the picture": ("b", points_row_by_row),
}


@pytest.fixture
def pack(request: pytest.FixtureRequest) -> Path:
    if not PACKS[request.param].is_dir():
        pytest.skip(f"pack {request.param} is not on this machine")
    return PACKS[request.param]


@lru_cache
def untouched(pack: Path) -> float:
    return parity(load(pack), pack).value


@pytest.mark.parametrize(("pack", "trap"), TRAPS.values(), ids=TRAPS.keys(), indirect=["pack"])
def test_a_trap_turns_parity_red(pack: Path, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    assert untouched(pack) < 0.5
    adapter = load(pack)
    with torch.no_grad():
        trap(adapter, monkeypatch)
    assert parity(adapter, pack).value > 3


def test_positions_from_zero_show_in_the_positions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions are relative: the states of all layers hide the mistake, so the pack's own position_ids are compared."""
    adapter, pack = load(PACKS["b"]), PACKS["b"]
    monkeypatch.setattr(Network, "positions", lambda self, ids: torch.arange(ids.shape[1])[None])
    assert parity(adapter, pack, tensors="position_ids").value > 1
    assert parity(adapter, pack, tensors="layer.*").value < 1
