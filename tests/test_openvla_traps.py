"""Each trap of OpenVLA's checkpoint format, put in on purpose, turns parity with upstream red: a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness import subjects
from harness.adapters import _prismatic, _prismatic_actions, _prismatic_image, _prismatic_weights
from harness.adapters.openvla import OpenVLA
from harness.contract.detokenisation import detokenisation
from harness.contract.parity import parity
from harness.contract.preprocessing import preprocessing
from harness.types import Point, Runtime

PACK = Path(__file__).resolve().parent.parent / "fixtures/data/openvla_tiny"


def load() -> OpenVLA:
    return subjects.load(subjects.resolve("openvla:checkpoint", checkpoint=PACK / "checkpoint"), Runtime())  # type: ignore[return-value]


def layer_scale_not_renamed(patch: pytest.MonkeyPatch) -> None:
    """timm's LayerScale stays at its initial 1e-5."""
    original = _prismatic_weights.published_to_native

    def native(state: dict, config: object, where: object = None) -> dict:
        found = original(state, config, where)
        return {name: torch.full_like(x, 1e-5) if name.endswith("lambda1") else x for name, x in found.items()}

    patch.setattr(_prismatic_weights, "published_to_native", native)


def on_towers(change: Callable[[str, _prismatic.Tower], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A change of both towers, by their kind, right after they are built."""

    def trap(patch: pytest.MonkeyPatch) -> None:
        original = _prismatic.Tower.__init__

        def init(self: _prismatic.Tower, config: _prismatic.TowerConfig, **options: object) -> None:
            original(self, config, **options)
            change(config.kind, self)

        patch.setattr(_prismatic.Tower, "__init__", init)

    return trap


def tanh_siglip(kind: str, tower: _prismatic.Tower) -> None:
    for module in tower.modules():
        if type(module).__name__ == "SiglipMLP":
            module.activation_fn = nn.GELU(approximate="tanh")


def tanh_dino(kind: str, tower: _prismatic.Tower) -> None:
    for module in tower.modules():
        if type(module).__name__ == "Dinov2WithRegistersMLP":
            module.activation_fn = nn.GELU(approximate="tanh")


def tower_output(taken: Callable[[_prismatic.Tower, torch.Tensor], torch.Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(_prismatic.Tower, "forward", taken)


def run(tower: _prismatic.Tower, pixels: torch.Tensor, blocks: int) -> torch.Tensor:
    x = tower.model.embeddings(pixels)
    for block in tower.blocks[:blocks]:
        x = block(x, None)
    return x


def last_block(tower: _prismatic.Tower, pixels: torch.Tensor) -> torch.Tensor:
    return run(tower, pixels, len(tower.blocks))[:, tower.prefix :]


def vit_norm_applied(tower: _prismatic.Tower, pixels: torch.Tensor) -> torch.Tensor:
    norm = tower.model.layernorm if tower.prefix else tower.model.post_layernorm
    return norm(run(tower, pixels, len(tower.blocks) - 1))[:, tower.prefix :]


def prefix_kept(tower: _prismatic.Tower, pixels: torch.Tensor) -> torch.Tensor:
    x = run(tower, pixels, len(tower.blocks) - 1)
    return x[:, : x.shape[1] - tower.prefix]


def towers_exchanged(patch: pytest.MonkeyPatch) -> None:
    original = OpenVLA.batch

    def batch(self: OpenVLA, inputs: dict, sample_ids: list | None = None) -> object:
        return original(self, {**inputs, "pixel_values": inputs["pixel_values"].roll(3, dims=1)}, sample_ids)

    patch.setattr(OpenVLA, "batch", batch)


def class_token_given_a_position(patch: pytest.MonkeyPatch) -> None:
    """The first patch's position also on the class token, as transformers' own checkpoints have one."""
    original = _prismatic_weights.published_to_native

    def native(state: dict, config: object, where: object = None) -> dict:
        found = original(state, config, where)
        for name, x in found.items():
            if name.endswith("embeddings.position_embeddings"):
                found[name] = torch.cat([x[:, 1:2], x[:, 1:]], 1)
        return found

    patch.setattr(_prismatic_weights, "published_to_native", native)


def llama_2_epsilon(patch: pytest.MonkeyPatch) -> None:
    """Llama-2's own rms_norm_eps 1e-5, a hundred times as large here so that a tiny model shows it."""
    original = _prismatic.PrismaticConfig.text.fget

    def text(self: _prismatic.PrismaticConfig) -> object:
        config = original(self)
        config.rms_norm_eps = 1e-3
        return config

    patch.setattr(_prismatic.PrismaticConfig, "text", property(text))


def image_before_bos(patch: pytest.MonkeyPatch) -> None:
    def cat(parts: list, dim: int = 0) -> torch.Tensor:
        return torch.cat([parts[1], parts[0], parts[2]] if len(parts) == 3 and dim == 1 else parts, dim)

    patch.setattr(_prismatic, "torch", type("torch", (), {"__getattr__": lambda self, name: cat if name == "cat" else getattr(torch, name)})())


def norm_as_last_block(patch: pytest.MonkeyPatch) -> None:
    original = OpenVLA.capture

    def capture(self: OpenVLA, *args: object, **options: object) -> dict:
        values = original(self, *args, **options)
        last = max(point for point in values if point.stack == "lm" and point.stream == "output")
        return {**values, last: values[Point("lm", "final_norm")]}

    patch.setattr(OpenVLA, "capture", capture)


PARITY_TRAPS = {
    "LayerScale not renamed": layer_scale_not_renamed,
    "tanh GELU in SigLIP": on_towers(tanh_siglip),
    "tanh GELU in DINOv2": on_towers(tanh_dino),
    "last block instead of the one before it": tower_output(last_block),
    "the ViT's final norm applied": tower_output(vit_norm_applied),
    "class and register tokens kept": tower_output(prefix_kept),
    "SigLIP's channels to DINOv2": towers_exchanged,
    "class token with a position": class_token_given_a_position,
    "another norm epsilon": llama_2_epsilon,
    "image before BOS": image_before_bos,
    "hidden_states[-1] taken for the last block": norm_as_last_block,
}


@pytest.mark.parametrize("trap", PARITY_TRAPS.values(), ids=PARITY_TRAPS.keys())
def test_a_trap_in_the_model_turns_parity_red(trap: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    trap(monkeypatch)
    assert parity(load(), PACK).value > 10


def test_without_a_trap_parity_holds() -> None:
    adapter = load()
    assert parity(adapter, PACK).value < 1
    assert preprocessing(adapter, PACK).value <= 1e-6
    assert detokenisation(adapter, PACK).value <= 1e-9


def recomputed_statistics(patch: pytest.MonkeyPatch) -> None:
    """Statistics that a table gives for the towers instead of the saved `tvf_normalize_params`."""
    adapter = load()
    table = _prismatic_image.default_preprocessor(adapter.model.config)
    patch.setattr(OpenVLA, "preprocessor", {**adapter.preprocessor, "tvf_normalize_params": table["tvf_normalize_params"]})


def plain_resize(patch: pytest.MonkeyPatch) -> None:
    """The picture squeezed into a square where the checkpoint says letterbox."""
    saved = load().preprocessor
    sides = [{**one, "size": [crop["output_size"][0]] * 2} for one, crop in zip(saved["tvf_resize_params"], saved["tvf_crop_params"], strict=True)]
    patch.setattr(OpenVLA, "preprocessor", {**saved, "tvf_do_letterbox": False, "tvf_resize_params": sides})


def bilinear(patch: pytest.MonkeyPatch) -> None:
    saved = load().preprocessor
    patch.setattr(OpenVLA, "preprocessor", {**saved, "tvf_resize_params": [{**one, "interpolation": 2} for one in saved["tvf_resize_params"]]})


@pytest.mark.parametrize("trap", [recomputed_statistics, plain_resize, bilinear])
def test_a_trap_in_the_picture_turns_preprocessing_red(trap: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    trap(monkeypatch)
    assert preprocessing(load(), PACK).value > 1e-4


def test_an_action_bin_off_by_one_turns_detokenisation_red(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _prismatic_actions.decode_actions
    monkeypatch.setattr("harness.adapters.openvla.decode_actions", lambda ids, *rest: original(np.asarray(ids) - 1, *rest))
    assert detokenisation(load(), PACK).value > 1e-4
