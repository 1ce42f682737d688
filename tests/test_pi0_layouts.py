"""π0's names and arrays between the three layouts: one tensor, one place, no number changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from harness.errors import DamagedError, MissingError
from harness.layouts import tensors
from harness.layouts.pi0 import BUFFERS, EMBEDDING, EXPERT, EXPERT_HEAD, HEAD, PALIGEMMA, canonical_name, native_name, new_name, old_name, saved_name
from harness.layouts.pi0_arrays import Heads, Sizes, sizes_of_leaves, sizes_of_tensors, to_leaves, to_tensors
from harness.layouts.tensors import Lazy

SIZES = Sizes(Heads(4, 1, 2), 6, 3, 20, 28, 12, 16, 32, 2, 8, 14, 3, 4, 5, 5)


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    """Any small π0 or π0.5, with as many kv heads as heads or fewer."""
    number = st.integers(1, 5)
    kv, groups, eyes = draw(number), draw(st.integers(1, 3)), draw(number)
    rest = [draw(number) for _ in range(11)]
    head, depth, width, mlp, expert, expert_mlp, words, vision_depth, vision_mlp, patch, action = rest
    state = draw(st.integers(0, 4))
    return Sizes(Heads(kv * groups, kv, eyes), head, depth, width, mlp, expert, expert_mlp, words, vision_depth, eyes * draw(number), vision_mlp, patch, draw(number), action, state)


def random_leaves(own: Sizes, seed: int = 0, dtype: str = "float32") -> dict[str, Lazy]:
    rng = np.random.default_rng(seed)
    return {leaf.path: Lazy.of(rng.standard_normal(own.leaf_shape(leaf)).astype(dtype)) for leaf in own.leaves}


@settings(max_examples=40, deadline=None)
@given(sizes(), st.integers(0, 9))
def test_leaves_come_back_from_tensors_and_tensors_from_leaves(own: Sizes, seed: int) -> None:
    leaves = random_leaves(own, seed)
    made = to_tensors(leaves, own, where="here")
    assert {name: tensor.read().shape for name, tensor in made.items()} == own.tensor_shapes()
    back = to_leaves(made, own, where="here")
    assert back.keys() == leaves.keys()
    for path, leaf in leaves.items():
        assert np.array_equal(back[path].read(), leaf.read()) and back[path].shape == leaf.shape
    again = to_tensors(back, own, where="here")
    assert all(np.array_equal(again[name].read(), made[name].read()) for name in made)


@settings(max_examples=40, deadline=None)
@given(sizes())
def test_sizes_are_told_by_the_shapes(own: Sizes) -> None:
    assert sizes_of_leaves({leaf.path: own.leaf_shape(leaf) for leaf in own.leaves}, where="here") == own
    assert sizes_of_tensors(own.tensor_shapes(), own.heads, where="here") == own


def test_the_output_projection_is_heads_beside_each_other_whatever_its_width() -> None:
    """openpi's converter reshapes it to (heads * head, width), which is right only where both are 2048."""
    leaf = np.arange(3 * 4 * 6 * 20, dtype=np.float32).reshape(3, 4, 6, 20)
    made = to_tensors(random_leaves(SIZES) | {"PaliGemma/llm/layers/attn/attn_vec_einsum/w": Lazy.of(leaf)}, SIZES, where="here")
    weight = made[f"{PALIGEMMA}model.language_model.layers.1.self_attn.o_proj.weight"].read()
    heads = np.random.default_rng(0).standard_normal((4, 6))
    np.testing.assert_allclose(weight @ heads.reshape(-1), np.einsum("nh,nhd->d", heads, leaf[1]), rtol=1e-6)


def test_attention_of_the_tensors_is_that_of_the_leaves() -> None:
    leaves = random_leaves(SIZES)
    made, x = to_tensors(leaves, SIZES, where="here"), np.random.default_rng(1).standard_normal(20)
    stem = f"{PALIGEMMA}model.language_model.layers.2.self_attn."
    for name, path, index in (("q_proj", "q_einsum/w", 2), ("k_proj", "kv_einsum/w", (2, 0)), ("v_proj", "kv_einsum/w", (2, 1))):
        einsum = np.einsum("d,ndh->nh", x, leaves[f"PaliGemma/llm/layers/attn/{path}"].read()[index])
        np.testing.assert_allclose((made[f"{stem}{name}.weight"].read() @ x).reshape(-1, 6), einsum, rtol=1e-5, atol=1e-6)


CANONICAL = [name for own in (SIZES, replace(SIZES, state=0)) for name in own.tensor_shapes()] + [HEAD, EXPERT_HEAD]


@given(st.sampled_from(CANONICAL))
def test_old_and_new_names_are_each_others_inverse(name: str) -> None:
    assert new_name(old_name(name)) == name
    assert new_name(name) == name == new_name(name.removeprefix("model.")) == new_name(old_name(name).removeprefix("model."))
    assert old_name(new_name(old_name(name))) == old_name(name)


@given(st.sampled_from([name for name in CANONICAL if name != HEAD and ".dense." not in name and ".time_mlp" not in name]))
def test_canonical_and_native_names_are_each_others_inverse(name: str) -> None:
    native = native_name(name)
    assert native is not None and canonical_name(native) == name == saved_name(native) == saved_name(name)


@pytest.mark.parametrize("change", [old_name, native_name])
def test_no_two_tensors_share_a_name(change: object) -> None:
    names = [change(name) for name in CANONICAL if name != HEAD]  # type: ignore[operator]
    assert len({name for name in names if name}) == len({name for name, other in zip(CANONICAL, names, strict=False) if other})


@pytest.mark.parametrize("name", [f"{stem}buffer_action.mean" for stem in BUFFERS])
def test_buffers_keep_their_names(name: str) -> None:
    assert new_name(name) == old_name(name) == name and native_name(name) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.paligemma_with_expert.paligemma.language_model.model.norm.weight", f"{PALIGEMMA}model.language_model.norm.weight"),
        ("paligemma_with_expert.paligemma.language_model.lm_head.weight", HEAD),
        ("paligemma_with_expert.paligemma.vision_tower.vision_model.x", f"{PALIGEMMA}model.vision_tower.vision_model.x"),
        ("model.paligemma_with_expert.paligemma.multi_modal_projector.linear.bias", f"{PALIGEMMA}model.multi_modal_projector.linear.bias"),
        ("paligemma_with_expert.gemma_expert.model.norm.weight", f"{EXPERT}model.norm.weight"),
        ("action_in_proj.bias", "model.action_in_proj.bias"),
    ],
)
def test_a_name_of_any_age_has_one_today(old: str, new: str) -> None:
    assert new_name(old) == new


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda leaves: leaves.pop("state_proj/bias"), r"1 arrays of the model are missing(.|\n)*state_proj/bias"),
        (lambda leaves: leaves.update({"state_proj/bias": Lazy.of(np.zeros(9, np.float32))}), r"another shape(.|\n)*state_proj/bias \(9,\) for \(12,\)"),
    ],
    ids=["missing", "misshapen"],
)
def test_leaves_that_are_not_whole_are_refused(change: object, match: str) -> None:
    leaves = random_leaves(SIZES)
    change(leaves)  # type: ignore[operator]
    with pytest.raises(DamagedError, match=match):
        to_tensors(leaves, SIZES, where="here")


def test_one_leaf_of_two_dtypes_is_refused() -> None:
    made = to_tensors(random_leaves(SIZES), SIZES, where="here")
    name = f"{PALIGEMMA}model.language_model.layers.1.mlp.down_proj.weight"
    half = made[name].read().astype(np.float16)
    with pytest.raises(DamagedError, match="float16, float32"):
        to_leaves(made | {name: Lazy.of(half)}, SIZES, where="here")


def test_what_tells_the_size_must_be_there() -> None:
    shapes = {leaf.path: SIZES.leaf_shape(leaf) for leaf in SIZES.leaves}
    del shapes["PaliGemma/llm/layers/mlp_1/gating_einsum"]
    with pytest.raises(DamagedError, match="gating_einsum missing"):
        sizes_of_leaves(shapes, where="here")
    with pytest.raises(DamagedError, match="do not divide"):
        sizes_of_tensors(SIZES.tensor_shapes(), Heads(3, 1, 2), where="here")


# ---------------------------------------------------------------- files


def arrays(dtype: str) -> dict[str, np.ndarray]:
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    rng = np.random.default_rng(0)
    return {"a": rng.standard_normal((3, 5)).astype(kind), "b.c": rng.standard_normal(7).astype(kind), "scalar": np.asarray(2.5, kind), "none": np.zeros((0, 4), kind)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64"])
def test_safetensors_are_written_as_the_library_does(dtype: str, tmp_path: Path) -> None:
    stored = arrays(dtype)
    tensors.save(tmp_path / "ours", {name: Lazy.of(array) for name, array in stored.items()}, {"who": "us"})
    save_file(stored, tmp_path / "theirs", metadata={"format": "pt", "who": "us"})
    for found in ({name: tensor.read() for name, tensor in tensors.load(tmp_path / "theirs").items()}, load_file(tmp_path / "ours")):
        assert {name: (x.dtype, x.shape, x.tobytes()) for name, x in found.items()} == {name: (x.dtype, x.shape, x.tobytes()) for name, x in stored.items()}
    assert tensors.read(tmp_path / "ours")[1] == {"format": "pt", "who": "us"}


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros((8, 8), np.float32)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in (4, 20, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(DamagedError, match="truncated or malformed"):
            tensors.load(tmp_path / "cut")
    with pytest.raises(MissingError, match="there is no nothing"):
        tensors.load(tmp_path / "nothing")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_orbax_folder_holds_what_was_written(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("orbax.checkpoint")
    from harness.layouts import orbax

    stored = {path: array for path, array in zip(("x/y/kernel", "x/z", "w"), arrays(dtype).values(), strict=False)}
    orbax.write(tmp_path / "params", stored)
    found = orbax.read(tmp_path / "params")
    assert {path: (x.dtype, x.shape, x.tobytes()) for path, x in found.items()} == {path: (x.dtype, x.shape, x.tobytes()) for path, x in stored.items()}
    assert {path: tuple(shape) for path, shape in orbax.shapes(tmp_path / "params").items()} == {path: (x.shape, dtype) for path, x in stored.items()}


def test_value_is_stripped_from_all_paths_or_none(tmp_path: Path) -> None:
    pytest.importorskip("orbax.checkpoint")
    from harness.layouts import orbax

    one = np.ones(2, np.float32)
    orbax.write(tmp_path / "all", {"a/value": one, "b/c/value": one})
    orbax.write(tmp_path / "some", {"a/value": one, "b/c": one})
    assert sorted(orbax.read(tmp_path / "all")) == sorted(orbax.shapes(tmp_path / "all")) == ["a", "b/c"]
    assert sorted(orbax.read(tmp_path / "some")) == ["a/value", "b/c"]


def test_what_is_no_orbax_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("orbax.checkpoint")
    from harness.layouts import orbax

    with pytest.raises(MissingError, match="no parameter folder"):
        orbax.read(tmp_path / "nothing")
    with pytest.raises(DamagedError, match="no whole orbax folder"):
        orbax.shapes(tmp_path)
    orbax.write(tmp_path / "params", {"a": np.ones(2, np.float32)})
    for path in (tmp_path / "params").rglob("manifest.ocdbt"):
        path.unlink()
    with pytest.raises(DamagedError, match="cannot read"):
        orbax.read(tmp_path / "params")


def test_embedding_is_one_tensor_under_its_own_name() -> None:
    assert EMBEDDING in SIZES.tensor_shapes() and HEAD not in SIZES.tensor_shapes()
