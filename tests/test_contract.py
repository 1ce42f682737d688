"""Contract measurements refuse what they cannot measure, and see small mistakes in what they can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import readers, subjects
from harness.adapters import Adapter
from harness.contract.determinism import determinism
from harness.contract.gathered import gathered
from harness.contract.input_use import input_use
from harness.contract.kernel_refused import kernel_refused
from harness.contract.kernels import kernels
from harness.contract.loaded import loaded
from harness.contract.metric_ceiling import metric_ceiling
from harness.contract.non_interference import non_interference
from harness.contract.option_use import option_use
from harness.contract.output_shape import output_shape
from harness.contract.parity import parity
from harness.contract.pooling import pooling
from harness.contract.post_norm import post_norm
from harness.contract.precision import precision
from harness.contract.residual_chain import residual_chain
from harness.contract.sizes import sizes
from harness.contract.span_reach import span_reach
from harness.errors import ContractError, DamagedError, MissingError, UnknownNameError, UsageError
from harness.types import Point, Recording, Runtime, Sample

PACK = Path(__file__).resolve().parent.parent / "fixtures/data/openvla_tiny"


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return subjects.load(subjects.resolve("openvla_tiny:checkpoint"), Runtime())


@pytest.fixture(scope="module")
def recording(adapter: Adapter) -> Recording:
    return adapter.record(readers.read("photos").samples[:3])


def spoiled(recording: Recording, point: str, by: float) -> Recording:
    place = Point.parse(point)
    return recording._replace(values={**recording.values, place: recording.values[place] * (1 + by)})


def test_the_final_norm_is_recomputed_to_rounding_and_a_thousandth_off_is_seen(adapter: Adapter, recording: Recording) -> None:
    assert post_norm(adapter, recording).value < 1e-6
    assert post_norm(adapter, spoiled(recording, "lm.final_norm", 1e-3)).value == pytest.approx(1e-3, rel=1e-2)


def test_the_chain_of_blocks_is_bitwise_and_one_broken_link_is_named(adapter: Adapter, recording: Recording) -> None:
    assert residual_chain(adapter, recording).value == 0
    broken = residual_chain(adapter, spoiled(recording, "lm.02.input", 1e-4))
    assert broken.value > 5e-5
    assert "lm.01.output" in broken.detail


def test_a_second_capture_is_compared_with_the_first(adapter: Adapter, recording: Recording) -> None:
    assert determinism(adapter, recording).value == 0
    assert determinism(adapter, spoiled(recording, "siglip.00.output", 1e-4)).value > 5e-5


def test_nan_in_a_recording_is_an_infinite_difference(adapter: Adapter, recording: Recording) -> None:
    place = Point("lm", "final_norm")
    values = recording.values[place].clone()
    values[0, 0, 0] = torch.nan
    assert post_norm(adapter, recording._replace(values={**recording.values, place: values})).value == float("inf")


@pytest.mark.parametrize("aspect", ["hooks", "training", "gradients", "parameters", "random", "modes"])
def test_a_changed_state_is_counted(adapter: Adapter, recording: Recording, aspect: str) -> None:
    assert non_interference(adapter, recording, (), aspect=aspect).value == 0
    after = recording.after[aspect]
    changed = [not after[0], *after[1:]] if isinstance(after, list) and isinstance(after[0], bool) else [None, *after[1:]] if isinstance(after, list) else None
    assert non_interference(adapter, recording._replace(after={**recording.after, aspect: changed}), (), aspect=aspect).value == 1


def test_a_parameter_that_is_not_the_checkpoint_s_is_counted(adapter: Adapter) -> None:
    assert loaded(adapter).value == 0
    weight = adapter.model.projector.fc1.bias
    weight[0] += 1
    try:
        assert loaded(adapter).value == 1
    finally:
        weight[0] -= 1


def test_metric_ceiling_is_one_without_shared_targets() -> None:
    assert metric_ceiling(metric="sample_retrieval", samples=10, tasks=10).value == 1
    assert metric_ceiling(metric="sample_retrieval", samples=45, tasks=10).value == pytest.approx(10 / 45)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a, r: pooling(r, identity="all_one"), "nearest is 'all_ones'"),
        (lambda a, r: non_interference(a, r, (), aspect="hook"), "nearest is 'hooks'"),
        (lambda a, r: input_use(a, (), change="black images"), "nearest is 'black image'"),
        (lambda a, r: sizes(a, r, of="widht", point="lm.00.output"), "nearest is 'width'"),
        (lambda a, r: metric_ceiling(metric="sample_retrival", samples=2, tasks=2), "nearest is 'sample_retrieval'"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(adapter: Adapter, recording: Recording, call, match: str) -> None:  # noqa: ANN001
    with pytest.raises(UnknownNameError, match=match):
        call(adapter, recording)


def test_parity_sees_a_difference_of_two_tolerances(adapter: Adapter, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("pack.json", "inputs.safetensors"):
        (tmp_path / name).write_bytes((PACK / name).read_bytes())
    expected = load_file(PACK / "expected.safetensors")
    expected["layer.1.output"][0, 3, 5] += 1e-4
    save_file(expected, tmp_path / "expected.safetensors")
    assert parity(adapter, PACK).value < 1
    found = parity(adapter, tmp_path)
    assert found.value > 2
    assert "layer.1.output" in found.detail


def test_padded_positions_of_a_pack_do_not_count(adapter: Adapter, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("pack.json", "inputs.safetensors"):
        (tmp_path / name).write_bytes((PACK / name).read_bytes())
    expected = load_file(PACK / "expected.safetensors")
    row, position = (expected["attention_mask"] == 0).nonzero()[0].tolist()
    expected["logits"][row, position] += 1
    save_file(expected, tmp_path / "expected.safetensors")
    assert parity(adapter, tmp_path).value < 1


def test_a_missing_or_damaged_pack_is_told(adapter: Adapter, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no parity pack"):
        parity(adapter, tmp_path)
    (tmp_path / "pack.json").write_text("{}")
    with pytest.raises(DamagedError, match="compare_on"):
        parity(adapter, tmp_path)


def test_replaced_inputs_move_every_sample_and_an_unused_one_moves_none(adapter: Adapter) -> None:
    samples = readers.read("photos").samples[:3]
    assert input_use(adapter, samples, change="black image").low > 0.01
    assert input_use(adapter, samples, change="every unused input").high == 0
    still = [replace(sample, images=samples[0].images) for sample in samples]
    assert input_use(adapter, still, change="other image").high < 1e-6


@pytest.fixture(scope="module")
def observed() -> tuple[Sample, ...]:
    """Samples of two cameras; this family sees the first."""
    photos = readers.read("photos").samples
    return tuple(replace(a, images={"primary": a.images["primary"], "wrist": b.images["primary"]}) for a, b in zip(photos[:3], photos[3:6], strict=True))


def test_a_camera_the_model_has_moves_it_and_another_does_not(adapter: Adapter, observed: tuple[Sample, ...]) -> None:
    assert input_use(adapter, observed, change="cameras listed backwards").high == 0
    assert input_use(adapter, observed, change="cameras swapped").low > 0.01
    assert input_use(adapter, observed, change="every unused input").high == 0


def test_a_missing_camera_is_named(adapter: Adapter, observed: tuple[Sample, ...]) -> None:
    blind = replace(observed[0], images={"wrist": observed[0].images["wrist"], "side": observed[0].images["wrist"]})
    with pytest.raises(UsageError, match=r"no camera primary(.|\n)*wrist, side"):
        adapter.encode([blind])


def test_the_span_of_every_camera_is_asked(adapter: Adapter, observed: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    found = span_reach(adapter, observed)
    assert found.value == 0
    assert found.detail.endswith("lm image.0")
    monkeypatch.setattr(type(adapter), "cameras", ("primary", "wrist"))
    with pytest.raises(ContractError, match=r"no stack has the span image\.1 of camera wrist"):
        span_reach(adapter, observed)


def test_actions_are_compared_before_and_after_a_capture(adapter: Adapter, recording: Recording, observed: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert non_interference(adapter, recording, observed, aspect="actions").value == 0
    original, calls = type(adapter).act, []

    def act(self: Adapter, samples: tuple[Sample, ...]) -> object:
        calls.append(samples)
        return original(self, samples) + (len(calls) - 1)

    monkeypatch.setattr(type(adapter), "act", act)
    assert non_interference(adapter, recording, observed, aspect="actions").value == 3 * 7


def test_kernels_agree_to_rounding_and_half_precision_does_not(adapter: Adapter, observed: tuple[Sample, ...]) -> None:
    assert 0 < kernels(adapter, observed).value < 1e-5
    assert 1e-4 < precision(adapter, observed).value < 0.05


def test_one_kernel_cannot_be_compared_and_is_refused_only_by_a_family_that_says_so(adapter: Adapter, observed: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_refused(adapter, kernel="sdpa").value is False
    monkeypatch.setattr(type(adapter), "kernels", ("eager",))
    with pytest.raises(UsageError, match="one attention kernel only"):
        kernels(adapter, observed)


def test_an_option_that_matters_moves_and_its_own_value_does_not(adapter: Adapter, observed: tuple[Sample, ...]) -> None:
    assert option_use(adapter, observed, option="prompt", value="v01").value > 0.01
    assert option_use(adapter, observed, option="prompt", value="openvla").value < 1e-6


def test_projected_patches_are_the_image_positions_of_the_embedding(adapter: Adapter, recording: Recording) -> None:
    assert gathered(adapter, recording, point="projector.output", of="lm.embedding", span="image.0").value == 0
    assert gathered(adapter, recording, point="projector.output", of="lm.00.output", span="image.0").value > 0.01


def test_an_output_has_its_shape_and_an_unknown_one_is_named(adapter: Adapter, observed: tuple[Sample, ...]) -> None:
    assert output_shape(adapter, observed, output="patch_features").value == [1, 16, 62]
    with pytest.raises(UnknownNameError, match="nearest is 'logits'"):
        output_shape(adapter, observed, output="logit")
