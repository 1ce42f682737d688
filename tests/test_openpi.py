"""π0 and π0.5 in JAX: parity, capture without a trace, one program for a whole run, inputs, statistics, sizes."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp

from harness import subjects
from harness.adapters import _openpi_gemma as gemma
from harness.adapters import _openpi_siglip as siglip
from harness.adapters import _openpi_tree as tree
from harness.adapters._openpi_inputs import letterboxed, prompt_ids, tokenizer_of
from harness.adapters._openpi_sampler import kept
from harness.adapters._openpi_sampler import sample as run
from harness.adapters._openpi_sizes import Sizes, infer, leaf_shapes
from harness.adapters._openpi_stats import Statistics, parse
from harness.adapters.openpi import OpenPI
from harness.contract.parity import parity
from harness.errors import DamagedError, MissingError, UsageError
from harness.extract import keeper
from harness.layouts import orbax
from harness.types import Point, Runtime, Sample, Weights

ROOT = Path(__file__).resolve().parent.parent
PACKS = [ROOT / "fixtures/data/openpi_tiny", *sorted(path.parent for path in (ROOT.parent / "shared/goldens/openpi").glob("[bc]*/pack.json"))]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def loaded(subject: str, *, dtype: str = "float32", **options: Any) -> OpenPI:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = subjects.resolve(subject)
        return subjects.load(replace(found, options={**found.options, **options}), Runtime(dtype=dtype))  # type: ignore[arg-type,return-value]


@pytest.fixture(scope="module")
def pi0() -> OpenPI:
    return loaded("openpi:mock")


@pytest.fixture(scope="module")
def pi05() -> OpenPI:
    return loaded("openpi_pi05:mock")


def observed(seed: int = 0, *, cameras: tuple[str, ...] = ("primary", "wrist"), words: str = "open the drawer", **changed: Any) -> Sample:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (24, 40, 3), np.uint8) for name in cameras}
    return replace(Sample(f"sample-{seed}", words, images, rng.normal(size=8)), **changed)


# ---------------------------------------------------------------- what upstream computes


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_every_tensor_is_upstream_s(pack: Path) -> None:
    adapter = subjects.load(subjects.resolve("openpi:checkpoint", checkpoint=pack / "checkpoint"), Runtime())
    assert parity(adapter, pack).value < 0.25
    assert adapter.unlike_checkpoint() == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vision_block_is_flax_s(dtype: str, pi0: OpenPI) -> None:
    """Upstream's tower is made of flax's modules; its softmax stays in the model's dtype."""
    parameters = {name: value.astype(dtype) for name, value in pi0.network.eye_blocks[1].items()}
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 36)), dtype)

    def under(name: str) -> dict:
        nested: dict[str, Any] = {}
        for path, leaf in parameters.items():
            *parents, last = path.split("/")
            if parents[0] == name:
                node = nested
                for parent in parents[1:]:
                    node = node.setdefault(parent, {})
                node[last] = leaf
        return {"params": nested}

    heads = parameters["MultiHeadDotProductAttention_0/query/kernel"].shape[1]
    normed = nn.LayerNorm(dtype=dtype).apply(under("LayerNorm_0"), x)
    mixed = x + nn.MultiHeadDotProductAttention(num_heads=heads, dtype=dtype, deterministic=True).apply(under("MultiHeadDotProductAttention_0"), normed, normed)
    normed = nn.LayerNorm(dtype=dtype).apply(under("LayerNorm_1"), mixed)
    first, second = (under("MlpBlock_0")["params"][name] for name in ("Dense_0", "Dense_1"))
    hidden = nn.gelu(nn.Dense(60, dtype=dtype).apply({"params": first}, normed))
    wanted = mixed + nn.Dense(36, dtype=dtype).apply({"params": second}, hidden)
    np.testing.assert_allclose(np.float32(siglip.block(parameters, x)), np.float32(wanted), atol=2e-5 if dtype == "float32" else 0.06)


def test_query_key_and_value_in_one_einsum_are_the_same_three(pi0: OpenPI) -> None:
    """Where there are as many key heads as heads, upstream's leaf is one."""
    rng, x = np.random.default_rng(0), jnp.ones((1, 2, 6))
    query, key, value = (rng.standard_normal((3, 6, 4), np.float32) for _ in range(3))
    apart = gemma.project({"attn/q_einsum/w": query, "attn/kv_einsum/w": np.stack([key, value])}, x)
    fused = gemma.project({"attn/qkv_einsum/w": np.stack([query, key, value])}, x)
    for left, right in zip(apart, fused, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)
    sizes = replace(pi0.sizes, kv_heads=pi0.sizes.heads)
    assert "PaliGemma/llm/layers/attn/qkv_einsum_1/w" in leaf_shapes(sizes)
    assert infer(leaf_shapes(sizes), "here") == sizes


def test_several_key_heads_serve_neighbouring_queries(pi0: OpenPI) -> None:
    """Two key heads, each repeated for its group of queries, is attention with as many key heads as heads."""
    rng = np.random.default_rng(0)
    query, pair, out = (rng.standard_normal(shape, np.float32) for shape in ((4, 6, 4), (2, 2, 6, 4), (4, 4, 6)))
    x, positions, mask = jnp.asarray(rng.standard_normal((1, 3, 6), np.float32)), jnp.arange(3)[None], jnp.ones((1, 3, 3), bool)
    shared = {"attn/q_einsum/w": query, "attn/attn_vec_einsum/w": jnp.asarray(out)}
    grouped, *_ = gemma.attend({**shared, "attn/kv_einsum/w": pair}, x, positions, mask, None)
    repeated, *_ = gemma.attend({**shared, "attn/kv_einsum/w": np.repeat(pair, 2, axis=1)}, x, positions, mask, None)
    np.testing.assert_allclose(grouped, repeated, atol=1e-5)


@pytest.mark.parametrize("subject", ["openpi:mock", "openpi_pi05:mock"])
def test_bfloat16_stays_near_float32(subject: str) -> None:
    samples = [observed(0), observed(1, words="pick up the bowl")]
    whole, half = loaded(subject).record(samples), loaded(subject, dtype="bfloat16").record(samples)
    for point, x in whole.values.items():
        y = half.values[point]
        assert y.dtype == np.float32
        assert 0 < np.linalg.norm(x - y) / np.linalg.norm(x) < 0.1, point


# ---------------------------------------------------------------- capture


@pytest.mark.parametrize("subject", ["openpi:mock", "openpi_pi05:mock"])
def test_any_choice_of_points_leaves_every_number_as_it_was(subject: str) -> None:
    adapter = loaded(subject)
    batch = adapter.encode([observed(0), observed(1)])
    every, bare = adapter.capture(batch, adapter.clauses), adapter.forward(batch)
    assert list(every) == list(adapter.clauses)  # in the order of the contract
    for chosen in ([Point("lm", "post_attn", 1)], list(adapter.clauses)[::7], list(adapter.clauses)[-1:]):
        found = adapter.capture(batch, chosen)
        assert set(found) == set(chosen)
        assert all(np.array_equal(found[point], every[point]) for point in chosen)
        watched = adapter.forward(batch, chosen)
        assert all(np.array_equal(watched[name], bare[name]) for name in bare)


def test_points_have_their_width_and_as_many_positions_as_the_map(pi0: OpenPI, pi05: OpenPI) -> None:
    for adapter in (pi0, pi05):
        recording = adapter.record([observed(0), observed(1)])
        for point, value in recording.values.items():
            tokens = recording.batch.tokens[point.stack]
            assert value.shape == (2, tokens.mask.shape[1], adapter.clauses[point].width)
            spans = list(tokens.spans.values())
            assert np.array_equal(sum(span.astype(int) for span in spans), np.ones_like(tokens.mask, int))
            assert np.array_equal(tokens.spans["padding"], ~tokens.mask)


def test_the_scale_of_a_norm_is_one_over_the_residual_s_rms(pi0: OpenPI) -> None:
    values = pi0.record([observed(0)]).values
    for scale, stream in (("pre_attn_scale", "input"), ("pre_mlp_scale", "post_attn")):
        for point in (Point("lm", stream, 2), Point("expert", stream, 1, 2)):
            x = values[point].astype(np.float64)
            np.testing.assert_allclose(values[replace(point, stream=scale)][..., 0], 1 / np.sqrt((x**2).mean(-1) + 1e-6), rtol=1e-5)


def test_a_capture_holds_nothing(pi0: OpenPI) -> None:
    """While points pass by, no more is alive than keys, values and a block's own arrays."""
    batch = pi0.encode([observed(0), observed(1)])
    pi0.capture(batch, pi0.clauses)
    before, alive = sum(x.nbytes for x in jax.live_arrays()), []

    def keep(point: Point, value: np.ndarray) -> np.ndarray:
        alive.append(sum(x.nbytes for x in jax.live_arrays()) - before)
        return value.mean(1)

    kept = pi0.capture(batch, pi0.clauses, keep)
    everything = sum(2 * 4 * clause.width * batch.tokens[point.stack].mask.shape[1] for point, clause in pi0.clauses.items())
    assert max(alive) - alive[0] < 0.3 * everything
    assert all(value.shape == (2, pi0.clauses[point].width) for point, value in kept.items())


def test_a_capture_stops_behind_its_last_point(pi0: OpenPI, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pi0.encode([observed(0)])
    monkeypatch.setattr(gemma, "block", None)  # the language model never begins
    assert list(pi0.capture(batch, [Point("vision", "final_norm")])) == [Point("vision", "final_norm")]


def test_one_compilation_serves_all_layers_and_steps(pi0: OpenPI) -> None:
    def compiled() -> list[int]:
        return [function._cache_size() for function in (siglip.block, gemma.block, gemma.norm)]

    before, batch = compiled(), pi0.encode([observed(index) for index in range(5)])  # a number of rows that nobody else has
    pi0.forward(batch)
    assert [after - earlier for after, earlier in zip(compiled(), before, strict=True)] == [1, 2, 2]  # of Gemma's, prefix and expert
    pi0.capture(batch, pi0.clauses)
    assert [after - earlier for after, earlier in zip(compiled(), before, strict=True)] == [1, 2, 2]


def test_values_are_float32_numpy_arrays_on_a_cpu(pi0: OpenPI) -> None:
    seen = []
    pi0.capture(pi0.encode([observed(0)]), [Point("lm", "final_norm")], lambda point, value: seen.append(value))
    assert isinstance(seen[0], np.ndarray) and seen[0].dtype == np.float32


def test_the_state_of_generators_and_settings_is_told(pi0: OpenPI) -> None:
    before = pi0.state()
    np.random.random()
    assert pi0.state()["random"] != before["random"]
    before = pi0.state()
    random.random()
    assert pi0.state()["random"] != before["random"]
    with jax.default_matmul_precision("tensorfloat32"):
        assert pi0.state()["modes"] != before["modes"]
    assert pi0.state()["modes"] == before["modes"]
    assert pi0.state()["parameters"] == before["parameters"]
    assert len(pi0.state()["parameters"]) == len(jax.tree.leaves(pi0.network))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the whole run as one program


@pytest.mark.parametrize("steps", [None, 2])
def test_pooled_rows_come_from_one_program_and_are_those_of_the_blocks(pi0: OpenPI, steps: int | None) -> None:
    batch = pi0.encode([observed(0), observed(1)])
    batch = batch if steps is None else batch.with_inputs(num_steps=np.int32(steps))
    points = [point for point in pi0.clauses if point.step is None or point.step < (steps or 3)]
    keep, compiled = keeper(batch, points, "mean", "cpu"), kept._cache_size()
    rows, blocks = pi0.capture(batch, points, keep), pi0.capture(batch, points, lambda point, value: keep(point, value))
    assert kept._cache_size() == compiled + 1 and rows.keys() == blocks.keys() == set(points)
    for point in points:
        assert rows[point].shape == blocks[point].shape and rows[point].dtype == blocks[point].dtype == np.float32
        np.testing.assert_allclose(rows[point], blocks[point], atol=1e-4 * np.abs(blocks[point]).max())
    pi0.capture(pi0.encode([observed(2), observed(3)]).with_inputs(**({} if steps is None else {"num_steps": np.int32(steps)})), points, keep)
    assert kept._cache_size() == compiled + 1  # another batch of that shape


def test_pooling_in_the_program_is_exact_to_the_last_bit_of_float32(pi0: OpenPI) -> None:
    """Float64 inside although the process has no 64-bit numbers: a mean of float32 sums would miss this by 1e-7 of the tokens."""
    batch = pi0.encode([observed(0)])
    place, keep = Point("vision", "embedding"), keeper(batch, [Point("vision", "embedding")], "mean", "cpu")
    (row,), tokens = pi0.capture(batch, [place], keep)[place], pi0.capture(batch, [place])[place][0].astype(np.float64)
    np.testing.assert_allclose(row, keep.weights["vision"][0] @ tokens, rtol=2**-23, atol=2**-28 * np.abs(tokens).mean())


def test_the_sampler_as_one_program_gives_the_same_actions(pi0: OpenPI) -> None:
    batch = pi0.encode([observed(0), observed(1)]).with_inputs(num_steps=np.int32(2))
    inputs, steps = pi0.placed(batch)
    np.testing.assert_allclose(run(pi0.network, inputs, steps=steps), pi0.forward(batch)["actions"], atol=2e-4)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("subject", ["openpi:mock", "openpi_pi05:mock"])
def test_a_row_is_the_same_alone_whatever_cameras_its_mates_have(subject: str) -> None:
    slots = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    samples = [observed(0, cameras=slots[::2]), observed(1, words="put the very large bowl on the plate")]
    adapter = loaded(subject)
    together = adapter.encode(samples)
    assert [[bool(together.inputs[f"image_mask.{slot}"][row]) for slot in slots] for row in (0, 1)] == [[True, False, True], [True, True, False]]
    captured = adapter.capture(together, adapter.clauses)
    for row, sample in enumerate(samples):
        alone = adapter.encode([sample])
        for point, value in adapter.capture(alone, adapter.clauses).items():
            mask = alone.tokens[point.stack].mask[0]
            assert np.array_equal(mask, together.tokens[point.stack].mask[row])
            np.testing.assert_allclose(captured[point][row][mask], value[0][mask], atol=1e-4 * np.abs(value).max(), err_msg=str(point))


def test_an_absent_camera_keeps_its_masked_tokens(pi0: OpenPI) -> None:
    batch = pi0.encode([observed(0)])
    assert np.array_equal(np.flatnonzero(batch.tokens["lm"].spans["padding"][0])[:4], [8, 9, 10, 11])  # the third slot
    assert not batch.tokens["lm"].spans["image.2"].any() and batch.tokens["vision"].mask.shape == (1, 12)
    assert (batch.inputs["image.right_wrist_0_rgb"] == -1).all() and not batch.inputs["image_mask.right_wrist_0_rgb"].any()


def test_the_checkpoint_s_own_camera_names_go_to_their_slots(pi0: OpenPI) -> None:
    own = observed(0, cameras=("right_wrist_0_rgb", "base_0_rgb"))
    batch = pi0.encode([own])
    assert not batch.inputs["image_mask.left_wrist_0_rgb"][0] and batch.inputs["image_mask.right_wrist_0_rgb"][0]
    assert np.array_equal(batch.inputs["image.base_0_rgb"][0], letterboxed(own.images["base_0_rgb"], (28, 28)))


def test_the_card_names_the_cameras_in_the_order_of_the_slots() -> None:
    given = observed(0, cameras=("top", "left", "right"))
    batch = loaded("openpi:mock", cameras=["left", "top"]).encode([given])
    assert np.array_equal(batch.inputs["image.base_0_rgb"][0], letterboxed(given.images["left"], (28, 28)))
    assert np.array_equal(batch.inputs["image.left_wrist_0_rgb"][0], letterboxed(given.images["top"], (28, 28)))


def test_the_limits_are_told(pi0: OpenPI, pi05: OpenPI) -> None:
    assert (pi0.prompt_limit, pi05.prompt_limit) == (24, 64)
    assert pi0.picture_size == (28, 28) and pi0.state_width == 8


def test_the_noise_is_the_same_for_every_sample_and_no_generator_moves(pi0: OpenPI) -> None:
    before = pi0.state()["random"]
    noise = pi0.encode([observed(0), observed(1)]).inputs["noise"]
    assert np.array_equal(noise[0], noise[1]) and noise.std() > 0.5
    assert np.array_equal(noise[:1], pi0.encode([observed(1)]).inputs["noise"])
    assert pi0.state()["random"] == before
    assert not np.array_equal(noise, loaded("openpi:mock", noise_seed=1).encode([observed(0), observed(1)]).inputs["noise"])


def moved(adapter: OpenPI, point: Point, *samples: Sample) -> np.ndarray:
    """Which positions of a point differ between two samples."""
    first, second = (adapter.capture(adapter.encode([sample]), [point])[point][0] for sample in samples)
    return np.abs(first - second).max(-1) > 1e-6


def test_pi0_s_state_moves_the_expert_and_never_the_prefix(pi0: OpenPI) -> None:
    pair = observed(0), observed(0, state=np.arange(8) / 5)
    assert not moved(pi0, Point("lm", "final_norm"), *pair).any()
    assert moved(pi0, Point("expert", "final_norm", step=0), *pair).all()
    assert moved(pi0, Point("expert", "embedding", step=0), *pair).tolist() == [True, *[False] * 5]


def test_pi0_s_state_token_is_the_same_in_every_step(pi0: OpenPI) -> None:
    values = pi0.record([observed(0)]).values
    first, last = (values[Point("expert", "final_norm", step=step)][0] for step in (0, 2))
    assert np.array_equal(first[0], last[0]) and not np.isclose(first[1:], last[1:]).any(-1).all()


def test_pi05_s_state_is_words_of_the_prompt(pi05: OpenPI) -> None:
    pair = observed(0), observed(0, state=np.arange(8) / 5)
    assert moved(pi05, Point("lm", "final_norm"), *pair).any()
    assert "state" not in pi05.encode([observed(0)]).tokens["expert"].spans
    silent = loaded("openpi_pi05:mock", discrete_state_input=False)
    assert not moved(silent, Point("expert", "final_norm", step=0), *pair).any()


def characters(text: str) -> list[int]:
    return list(map(ord, text))


@pytest.mark.parametrize(
    ("instruction", "state", "prompt"),
    [
        (" pick_up\nthe cup ", None, "pick up the cup\n"),
        ("Pick up", np.array([-1.0, 0.0, 0.999, 1.0, 7.0]), "Task: Pick up, State: 0 128 255 255 255;\nAction: "),
        ("pick_up", np.array([-1.001, -0.5]), "Task: pick up, State: -1 64;\nAction: "),
    ],
)
def test_the_prompt_is_upstream_s(instruction: str, state: np.ndarray | None, prompt: str) -> None:
    assert prompt_ids(instruction, state, characters) == [2, *characters(prompt)]


def test_a_picture_is_resized_whole_between_bars_in_the_centre() -> None:
    picture = np.full((10, 20, 3), 255, np.uint8)
    boxed = letterboxed(picture, (28, 28))
    assert boxed.shape == (28, 28, 3) and boxed.dtype == np.float32
    assert (boxed[:7] == -1).all() and (boxed[21:] == -1).all() and (boxed[7:21] == 1).all()
    odd = letterboxed(np.full((10, 23, 3), 255, np.uint8), (28, 28))
    assert (odd[:8] == -1).all() and (odd[8:20] == 1).all() and (odd[20:] == -1).all()


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    np.testing.assert_allclose(letterboxed(picture, (28, 28)), picture / 127.5 - 1, atol=1e-6)


def test_a_picture_is_shrunk_as_an_average_in_whole_levels() -> None:
    """Triangle filter of twice the width: inside, weights 1/8 3/8 3/8 1/8 along each axis."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    shrunk = (letterboxed(picture, (4, 4)) + 1) * 127.5
    filtered = np.einsum("i,j,ijc->c", *[np.array([1, 3, 3, 1]) / 8] * 2, picture[1:5, 1:5].astype(float))
    np.testing.assert_allclose(shrunk[1, 1], np.round(filtered), atol=1e-3)


# ---------------------------------------------------------------- tokenizer


def test_the_tokenizer_beside_the_weights_is_taken(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"open": 5, "drawer": 6, "?": 7}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_of([tmp_path], 257152)("open the drawer") == [5, 7, 6]
    with pytest.raises(DamagedError, match=r"another model's(.|\n)*token 5(.|\n)*ids below 5"):
        tokenizer_of([tmp_path], 5)("open")


def test_a_published_vocabulary_needs_its_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=rf"no tokenizer(.|\n)*paligemma_tokenizer.model(.|\n)*{tmp_path}"):
        tokenizer_of([tmp_path], 257152)
    assert tokenizer_of([tmp_path], 512)("open the drawer") != tokenizer_of([], 512)("close the drawer")


def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DamagedError, match="holds no tokenizer"):
        tokenizer_of([tmp_path], 512)


# ---------------------------------------------------------------- statistics and actions


def statistics(*, quantiles: bool, pad: int = 0) -> Statistics:
    rows = {"mean": [1.0, -2.0], "std": [0.5, 4.0], "q01": [0.0, -10.0], "q99": [2.0, 10.0]}
    padded = {name: [*row, *[0.0] * pad] for name, row in rows.items()}
    return parse({"state": padded, "actions": padded}, quantiles=quantiles, where="here")


@pytest.mark.parametrize(("quantiles", "wanted"), [(False, [1.0, 0.5]), (True, [0.5, 0.0])])
def test_states_are_normalised_and_actions_go_back(quantiles: bool, wanted: list[float]) -> None:
    found = statistics(quantiles=quantiles)
    state = np.array([1.5, 0.0])
    np.testing.assert_allclose(found.normalised(state), wanted, atol=1e-5)
    np.testing.assert_allclose(found.action(np.append(found.normalised(state), [9.0, 9.0])), state, atol=1e-9)


@pytest.mark.parametrize("quantiles", [False, True])
def test_the_padding_of_statistics_is_not_the_dataset_s(quantiles: bool) -> None:
    assert statistics(quantiles=quantiles, pad=30).state_width == 2


def test_statistics_without_quantiles_are_told_of() -> None:
    rows = {"mean": [0.0], "std": [1.0]}
    with pytest.raises(DamagedError, match="q01 and q99"):
        parse({"state": rows, "actions": rows}, quantiles=True, where="here")


@pytest.mark.parametrize("subject", ["openpi:mock", "openpi_pi05:mock"])
def test_actions_have_the_dataset_s_width_and_units(subject: str) -> None:
    adapter = loaded(subject)
    actions = adapter.act([observed(0), observed(1)])
    assert actions.shape == (2, 5, 7) and actions.dtype == np.float64
    own = adapter.forward(adapter.encode([observed(1)]))["actions"][0, :, :7]
    scale, shift = np.polyfit(own[:, 1], actions[1, :, 1], 1)
    assert (round(scale, 4), round(shift, 4)) == ((0.3, 0.0) if subject == "openpi:mock" else (0.5, 0.0))


@pytest.fixture
def bare(tmp_path: Path, pi0: OpenPI) -> Iterator[OpenPI]:
    """A checkpoint that never had statistics."""
    leaf = tree.random_leaf(pi0.sizes, seed=3)
    orbax.write(tmp_path / "params", {name: leaf(name) for name in leaf_shapes(pi0.sizes)})
    (tmp_path.parent / "pack.json").write_text(json.dumps({"model": {"action_horizon": 5, "num_steps": 2}}))
    yield subjects.load(replace(subjects.resolve("openpi:mock"), weights=Weights("directory", "0", tmp_path), config={}), Runtime())  # type: ignore[misc]
    (tmp_path.parent / "pack.json").unlink()


def test_a_checkpoint_without_statistics_takes_states_as_they_are(bare: OpenPI) -> None:
    assert bare.state_width is None and bare.settings.steps == 2 and bare.settings.prompt_tokens == 48
    with pytest.warns(UserWarning, match="already normalised") as told:
        batch = bare.encode([observed(0, state=np.ones(3)), observed(1, state=np.ones(3))])
    assert len(told) == 1
    assert batch.inputs["state"][0].tolist() == [1.0, 1.0, 1.0, *[0.0] * 6]
    with pytest.raises(MissingError, match="no normalisation statistics"):
        bare.act([observed(0)])
    with pytest.raises(UsageError, match=r"wider than the model(.|\n)*12 numbers(.|\n)*at most 9"), warnings.catch_warnings(action="ignore"):
        bare.encode([observed(0, state=np.ones(12))])


def test_a_changed_parameter_is_unlike_the_checkpoint(bare: OpenPI) -> None:
    assert bare.unlike_checkpoint() == []
    changed = dict(bare.network.expert_blocks[1])
    changed["mlp/linear"] = changed["mlp/linear"].at[0, 0].add(1e-6)
    blocks = list(bare.network.expert_blocks)
    blocks[1] = changed
    bare.network = bare.network._replace(expert_blocks=tuple(blocks))
    assert bare.unlike_checkpoint() == ["PaliGemma/llm/layers/mlp_1/linear"]


def test_the_anatomy_is_what_is_stored(bare: OpenPI) -> None:
    directory = bare.subject.weights.directory
    assert directory is not None
    anatomy = OpenPI.anatomy(directory)
    assert anatomy.shapes == {name: leaf.shape for name, leaf in orbax.shapes(directory / "params").items()}


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("model", "parameters", "leaves", "prefix", "suffix"),
    [("openpi", 3_238_048_528, 50, 816, 51), ("openpi_pi05", 3_353_433_872, 51, 968, 50)],
)
def test_published_sizes_are_had_without_weights(model: str, parameters: int, leaves: int, prefix: int, suffix: int) -> None:
    adapter = loaded(f"{model}:abstract")
    assert len(leaf_shapes(adapter.sizes)) == leaves
    assert sum(int(np.prod(shape)) for shape in leaf_shapes(adapter.sizes).values()) == parameters
    values = adapter.record([observed(0), observed(1)]).values
    assert values.keys() == adapter.clauses.keys()
    assert values[Point("lm", "output", 17)].shape == (2, prefix, 2048)
    assert values[Point("expert", "post_attn", 17, 9)].shape == (2, suffix, 1024)
    assert values[Point("vision", "final_norm")].shape == (2, 768, 1152)


def test_sizes_are_read_off_the_leaves(pi0: OpenPI, pi05: OpenPI) -> None:
    for sizes in (pi0.sizes, pi05.sizes):
        assert isinstance(sizes, Sizes) and infer(leaf_shapes(sizes), "here") == sizes
