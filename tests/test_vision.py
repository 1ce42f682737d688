"""Vision towers: points, spans, and pictures prepared as an independent resampling prepares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.adapters.vision import Vision, preprocess
from harness.datasets.photos import Photos
from harness.errors import UnknownNameError, UsageError
from harness.types import Runtime, Sample, Subject, Weights

DATA = Path(__file__).resolve().parent.parent / "fixtures/data/libero_instructions.json"
CONFIG = {"model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
MEAN, STD = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1), np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)


def loaded(*, runtime: Runtime = Runtime(), config: dict | None = None, **options: object) -> Vision:  # noqa: B008 - frozen
    return Vision.load(Subject("tiny", "mock", "vision", config or CONFIG, Weights("random", "digest", seed=0), options), runtime)


@pytest.fixture(scope="module")
def adapter() -> Vision:
    return loaded()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(Photos(DATA, n=3))


def test_the_points_are_embedding_blocks_and_the_norm_after_them(adapter: Vision, samples: list[Sample]) -> None:
    names = ["vision.embedding", "vision.00.input", "vision.00.output", "vision.01.input", "vision.01.output", "vision.final_norm"]
    assert [str(point) for point in adapter.clauses] == names
    captured = adapter.capture(adapter.encode(samples), adapter.clauses)
    assert {tuple(values.shape) for values in captured.values()} == {(3, 5, 24)}


def test_the_last_entry_of_the_framework_s_tuple_is_the_raw_block_and_not_the_norm(adapter: Vision, samples: list[Sample]) -> None:
    batch = adapter.encode(samples)
    captured, known = adapter.capture(batch, adapter.clauses), adapter.framework_tuple(batch, "vision")
    assert torch.allclose(captured[adapter.resolve("vision.-1.output")], known[-1], atol=1e-6)
    assert not torch.allclose(captured[adapter.resolve("vision.final_norm")], known[-1], atol=0.1)


@pytest.mark.parametrize(("side", "patches"), [(None, 4), (28, 4), (56, 16), (42, 9)])
def test_class_token_and_patches_cover_the_sequence(samples: list[Sample], side: int | None, patches: int) -> None:
    adapter = loaded(**({} if side is None else {"input_size": side}))
    batch = adapter.encode(samples)
    tokens = batch.tokens["vision"]
    assert tokens.mask.shape == (3, 1 + patches)
    assert tokens.mask.all()
    assert tokens.spans["class"].sum(1).tolist() == [1, 1, 1]
    assert tokens.spans["class"][:, 0].all()
    assert torch.equal(tokens.spans["image.0"], ~tokens.spans["class"])
    assert not tokens.spans["padding"].any()
    (values,) = adapter.capture(batch, ["vision.00.output"]).values()
    assert values.shape[1] == 1 + patches


def test_half_weights_take_half_pixels_and_give_float32_features(samples: list[Sample]) -> None:
    adapter = loaded(runtime=Runtime(dtype="bfloat16"))
    batch = adapter.encode(samples)
    assert batch.inputs["pixel_values"].dtype == torch.bfloat16
    assert {values.dtype for values in adapter.capture(batch, adapter.clauses).values()} == {torch.float32}


def test_a_sample_without_picture_is_named(adapter: Vision, samples: list[Sample]) -> None:
    with pytest.raises(UsageError, match=r"sample 'blind' has no image(.|\n)*tiny:mock"):
        adapter.encode([*samples, Sample("blind", "open the drawer")])


def test_an_architecture_without_a_layout_is_refused() -> None:
    config = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14, "intermediate_size": 8}
    with pytest.raises(UnknownNameError, match="no vision architecture named 'vit'; the nearest is 'dinov2'"):
        loaded(config=config)


def resampled(image: np.ndarray, side: int) -> np.ndarray:
    """torch's antialiased bicubic resize of the shorter edge, in whole levels after each direction as Pillow does it, and its middle."""
    height, width = image.shape[:2]
    high, wide = (side, round(width * side / height)) if height <= width else (round(height * side / width), side)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for size in ((height, wide), (high, wide)):
        pixels = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).round().clamp(0, 255)
    top, left = (high - side) // 2, (wide - side) // 2
    return pixels[0, :, top : top + side, left : left + side].numpy()


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize("turned", [False, True], ids=["landscape", "portrait"])
def test_a_picture_is_prepared_as_another_implementation_prepares_it(samples: list[Sample], side: int, turned: bool) -> None:
    image = samples[0].images["primary"]
    image = np.ascontiguousarray(image.transpose(1, 0, 2)) if turned else image
    found = preprocess(image, side)
    levels = (found * STD + MEAN) * 255
    assert (found.shape, found.dtype) == ((3, side, side), np.float32)
    assert np.abs(levels - resampled(image, side)).max() < 1.01  # a level: Pillow's weights are integers
    assert np.abs(levels - resampled(image[::-1].copy(), side)).max() > 20


def test_one_colour_becomes_its_distance_from_the_mean_in_deviations() -> None:
    image = np.empty((50, 90, 3), np.uint8)
    image[:] = (255, 0, 128)
    found = preprocess(image, 28)
    expected = ((np.array([255, 0, 128]) / 255).reshape(3, 1, 1) - MEAN) / STD
    assert np.allclose(found, np.broadcast_to(expected, found.shape), atol=1e-6)


def test_a_picture_of_the_right_size_is_only_scaled() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    assert np.allclose(preprocess(image, 28), (image.transpose(2, 0, 1) / 255 - MEAN) / STD, atol=1e-6)


def test_the_middle_is_kept() -> None:
    image = np.zeros((28, 84, 3), np.uint8)
    image[:, 28:56] = 255
    assert preprocess(image, 28).min() > 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
    ],
    ids=["floats", "integers", "grey", "alpha", "channels first", "empty", "a batch"],
)
def test_anything_but_a_colour_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"not an RGB picture(.|\n)*expected uint8 \(height, width, 3\)"):
        preprocess(image, 28)
