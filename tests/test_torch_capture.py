"""The capture engine sees what the blocks saw, keeps copies of it, and leaves the model as it found it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.adapters._torch import Capture, first_input, select
from harness.errors import ContractError
from harness.types import Clause, Point

WIDTH = 6
RETURNS: Mapping[str, Callable[[Tensor], object]] = {
    "a tensor": lambda x: x,
    "a tuple": lambda x: (x, None),
    "a ModelOutput": lambda x: OrderedDict(last_hidden_state=x),
}
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Block(nn.Module):
    """A residual block; `inplace` adds onto the tensor it was given, `wrap` decides how the result is returned."""

    def __init__(self, wrap: Callable[[Tensor], object] = RETURNS["a tensor"], *, inplace: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout)
        self.wrap, self.inplace, self.calls = wrap, inplace, 0

    def forward(self, hidden_states: Tensor) -> object:
        self.calls += 1
        update = self.dropout(self.linear(hidden_states))
        return self.wrap(hidden_states.add_(update) if self.inplace else hidden_states + update)


class Model(nn.Module):
    """Blocks in a row, called by position or by keyword; `last` is called `repeats` times and `spare` never."""

    def __init__(self, blocks: list[nn.Module], *, keyword: bool = False, repeats: int = 1, fails: bool = False) -> None:
        super().__init__()
        self.blocks, self.last, self.spare = nn.ModuleList(blocks), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.keyword, self.repeats, self.fails, self.finished = keyword, repeats, fails, 0

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        for block in self.blocks:
            out = block(hidden_states=x) if self.keyword else block(x)
            x = out if isinstance(out, Tensor) else next(iter(out.values())) if isinstance(out, Mapping) else out[0]
        if self.fails:
            raise RuntimeError("the forward broke")
        for _ in range(self.repeats):
            x = self.last(x)
        self.finished += 1
        return x


def model(count: int = 3, *, wrap: str = "a tensor", inplace: bool = False, dropout: float = 0.0, **options: Any) -> Model:
    torch.manual_seed(0)
    return Model([Block(RETURNS[wrap], inplace=inplace, dropout=dropout) for _ in range(count)], **options)


def rows() -> Tensor:
    return torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(1))


def clause(module: str, side: str = "output", **options: Any) -> Clause:
    return Clause(module=module, side=side, width=WIDTH, norm="raw", **options)  # type: ignore[arg-type]


def blocks(*layers: int, side: str = "output") -> dict[Point, Clause]:
    return {Point("lm", side, layer): clause(f"blocks.{layer}", side) for layer in layers}


def hook_counts(network: nn.Module) -> dict[str, int]:
    return {f"{name}/{kind}": len(getattr(module, kind)) for name, module in network.named_modules() for kind in HOOKS}


def no_hooks(network: nn.Module) -> bool:
    return not any(hook_counts(network).values())


def streams(network: Model, x: Tensor) -> list[Tensor]:
    """The residual stream before each block and after the last, by plain arithmetic instead of hooks."""
    found = [x]
    for block in network.blocks:
        found.append(found[-1] + block.linear(found[-1]))
    return [stream.detach().clone() for stream in found]


@pytest.mark.parametrize("keyword", [False, True], ids=["by position", "by keyword"])
@pytest.mark.parametrize("wrap", RETURNS)
def test_inputs_and_outputs_are_the_residual_stream(wrap: str, keyword: bool) -> None:
    network, x = model(wrap=wrap, keyword=keyword), rows()
    with Capture(network, {**blocks(0, 1, 2, side="input"), **blocks(0, 1, 2)}) as capture:
        network(x)
    for layer, (before, after) in enumerate(zip(streams(network, x), streams(network, x)[1:], strict=False)):
        assert torch.equal(capture.values[Point("lm", "input", layer)], before)
        assert torch.equal(capture.values[Point("lm", "output", layer)], after)
        assert not torch.equal(before, after)


def test_an_element_of_a_tuple_is_the_declared_one() -> None:
    network = nn.Sequential(OrderedDict(block=Block(lambda x: (x, 2 * x))))
    point = Point("lm", "output", 0)
    with Capture(network, {point: clause("block", element=1)}) as capture:
        expected = network(rows())[1]
    assert torch.equal(capture.values[point], expected)


@pytest.mark.parametrize("wrap", RETURNS)
def test_capture_leaves_the_output_bitwise_alone(wrap: str) -> None:
    network, x = model(wrap=wrap), rows()
    plain = network(x)
    with Capture(network, {**blocks(0, 1, 2, side="input"), **blocks(0, 1, 2)}):
        captured = network(x)
    assert torch.equal(plain, captured)


@pytest.mark.parametrize("deepest", [0, 1, 2])
def test_stop_ends_the_forward_after_the_deepest_point(deepest: int) -> None:
    network, x = model(), rows()
    with Capture(network, blocks(*range(deepest + 1)), stop=True) as capture:
        network(x)
    assert [block.calls for block in network.blocks] == [1] * (deepest + 1) + [0] * (2 - deepest)
    assert network.finished == 0
    assert torch.equal(capture.values[Point("lm", "output", deepest)], streams(network, x)[deepest + 1])


def test_stop_at_an_input_never_runs_that_module() -> None:
    network = model()
    with Capture(network, blocks(1, side="input"), stop=True):
        network(rows())
    assert [block.calls for block in network.blocks] == [1, 0, 0]


def test_without_stop_the_whole_forward_runs() -> None:
    network = model()
    with Capture(network, blocks(0)):
        network(rows())
    assert [block.calls for block in network.blocks] == [1, 1, 1]
    assert network.finished == 1


def test_outputs_after_a_stopped_forward_are_bitwise_those_before() -> None:
    network, x = model(), rows()
    before = network(x)
    with Capture(network, blocks(1), stop=True):
        network(x)
    assert torch.equal(network(x), before)
    assert no_hooks(network)


def test_model_code_that_catches_every_exception_cannot_swallow_the_stop() -> None:
    class Careless(Model):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return super().forward(x)
            except Exception:
                return x

    network = Careless([Block(), Block()])
    returned = []
    with Capture(network, blocks(0), stop=True):
        returned.append(network(rows()))
    assert returned == []


def test_an_error_of_the_model_passes_through_stop() -> None:
    network = model(fails=True)
    with pytest.raises(RuntimeError, match="the forward broke"), Capture(network, {**blocks(0), Point("lm", "final_norm"): clause("last")}, stop=True):
        network(rows())
    assert no_hooks(network)


def test_hooks_stand_within_and_are_gone_after() -> None:
    network = model()
    with Capture(network, {**blocks(0, 1), **blocks(2, side="input")}):
        assert hook_counts(network)["blocks.0/_forward_hooks"] == 1
        assert hook_counts(network)["blocks.2/_forward_pre_hooks"] == 1
        network(rows())
    assert no_hooks(network)


def raising(point: Point, value: Tensor) -> Tensor:
    raise ArithmeticError("keep broke")


@pytest.mark.parametrize(
    ("error", "match", "options", "clauses", "keep"),
    [
        (RuntimeError, "the forward broke", {"fails": True}, blocks(0, 1), None),
        (ContractError, "does not have", {}, {**blocks(0, 1), Point("lm", "output", 9): clause("blocks.9")}, None),
        (ArithmeticError, "keep broke", {}, {**blocks(0), **blocks(2, side="input")}, raising),
        (ContractError, "fired twice", {"repeats": 2}, {**blocks(0), Point("lm", "final_norm"): clause("last")}, None),
        (ContractError, "never fired", {}, {**blocks(0), Point("lm", "output", 9): clause("spare")}, None),
    ],
    ids=["the forward raises", "a later registration fails", "keep raises", "a point fires twice", "a point never fires"],
)
def test_no_hook_is_left_when(error: type[Exception], match: str, options: dict[str, Any], clauses: dict[Point, Clause], keep: Any) -> None:
    network = model(**options)
    with pytest.raises(error, match=match):  # noqa: SIM117
        with Capture(network, clauses, **({"keep": keep} if keep else {})):
            network(rows())
    assert no_hooks(network)


def test_the_hook_count_would_show_a_hook_left_behind() -> None:
    network = model()
    network.blocks[1].register_forward_pre_hook(lambda *_: None, with_kwargs=True)
    assert not no_hooks(network)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_captured_value_survives_in_place_changes_that_follow(side: str) -> None:
    network, x = model(inplace=True), rows()
    with Capture(network, blocks(0, 1, 2, side=side)) as capture, torch.no_grad():
        network(x)
    for layer in range(3):
        assert torch.equal(capture.values[Point("lm", side, layer)], streams(network, x)[layer + (side == "output")])


KEEPS: Mapping[str, Callable[[Point, Tensor], Tensor]] = {
    "the tensor itself": lambda _, value: value,
    "a slice": lambda _, value: value[:, -1],
    "a reshape": lambda _, value: value.flatten(0, 1),
    "an expansion": lambda _, value: value[:1].expand(3, -1, -1),
    "a no-op conversion": lambda _, value: value.float(),
}


@pytest.mark.parametrize("kept", KEEPS)
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_keep_that_returns_a_view_does_not_alias_the_model(side: str, kept: str) -> None:
    network, x = model(inplace=True), rows()
    with Capture(network, blocks(0, 1, 2, side=side), KEEPS[kept]) as capture, torch.no_grad():
        network(x)
    for layer in range(3):
        expected = KEEPS[kept](Point("lm", side, layer), streams(network, x)[layer + (side == "output")])
        assert torch.equal(capture.values[Point("lm", side, layer)], expected)


def test_the_in_place_model_would_expose_an_alias() -> None:
    network, x, seen = model(inplace=True), rows(), []
    network.blocks[0].register_forward_hook(lambda _, args, output: seen.append(output.detach()))
    with torch.no_grad():
        network(x)
    assert not torch.equal(seen[0], streams(network, x)[1])


def test_changing_a_captured_value_does_not_change_the_model() -> None:
    network, x = model(), rows()
    plain = network(x)
    with Capture(network, blocks(0), lambda _, value: value[:, :2]) as capture:

        def spoil(*_: object) -> None:
            capture.values[Point("lm", "output", 0)].zero_()

        network.blocks[1].register_forward_pre_hook(spoil)
        assert torch.equal(network(x), plain)
    assert not capture.values[Point("lm", "output", 0)].any()


def test_random_state_flags_and_gradients_are_untouched() -> None:
    network = model()
    network.blocks[1].eval()
    network.blocks[2].linear.bias.requires_grad_(False)
    network.last.weight.grad = torch.ones(WIDTH, WIDTH)

    def state() -> dict[str, object]:
        return {
            "rng": torch.get_rng_state().tolist(),
            "training": [module.training for module in network.modules()],
            "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
            "grad": [None if parameter.grad is None else parameter.grad.tolist() for parameter in network.parameters()],
            "versions": [parameter._version for parameter in network.parameters()],
            "grad mode": torch.is_grad_enabled(),
        }

    before = state()
    with Capture(network, {**blocks(0, 1, 2), **blocks(0, side="input")}):
        network(rows())
    assert state() == before
    torch.rand(1)
    assert state() != before


@pytest.mark.parametrize("kept", KEEPS)
def test_captured_values_hold_no_graph(kept: str) -> None:
    network = model()
    with Capture(network, blocks(0, 2), KEEPS[kept]) as capture:
        output = network(rows().requires_grad_())
    assert output.grad_fn is not None
    assert all(value.grad_fn is None and not value.requires_grad for value in capture.values.values())


def test_gradients_are_bitwise_those_of_a_run_without_capture() -> None:
    gradients = []
    for captured in (False, True):
        network, x = model(), rows().requires_grad_()
        with Capture(network, {**blocks(0, 1, 2), **blocks(1, side="input")} if captured else {}):
            network(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in network.parameters() if parameter.grad is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 6
    assert all(torch.equal(plain, captured) for plain, captured in zip(*gradients, strict=True))


def test_dropout_draws_the_same_numbers_under_capture() -> None:
    network, x = model(dropout=0.5).train(), rows()
    torch.manual_seed(3)
    plain, after = network(x), torch.get_rng_state()
    torch.manual_seed(3)
    with Capture(network, {**blocks(0, 1, 2), **blocks(0, 1, 2, side="input")}):
        captured = network(x)
    assert torch.equal(plain, captured)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(4)
    assert not torch.equal(network(x), plain)


@pytest.mark.parametrize(
    ("clauses", "options", "match"),
    [
        ({Point("lm", "output", 0): clause("spare")}, {}, r"1 of 1 points never fired(.|\n)*lm\.00\.output at spare"),
        ({**blocks(0), Point("lm", "norm"): clause("spare", "input")}, {}, r"1 of 2 points never fired(.|\n)*lm\.norm at spare"),
        ({Point("lm", "final_norm"): clause("last")}, {"repeats": 2}, r"lm\.final_norm fired twice in one forward(.|\n)*last"),
        ({Point("lm", "input", 0): clause("last", "input")}, {"repeats": 3}, r"lm\.00\.input fired twice in one forward"),
        ({Point("lm", "output", 7): clause("blocks.7")}, {}, r"lm\.07\.output names a module that the model does not have(.|\n)*blocks\.7"),
        ({Point("lm", "output", 0): clause("blocks.0.linear.weight")}, {}, "names a module that the model does not have"),
        ({Point("lm", "output", 0): clause("blocks.0", element=1)}, {"wrap": "a tuple"}, r"without a tensor at element 1(.|\n)*tuple\(tensor \(2, 4, 6\), NoneType"),
        ({Point("lm", "output", 0): clause("blocks.0", element=2)}, {"wrap": "a tuple"}, "without a tensor at element 2"),
        ({Point("lm", "output", 0): clause("blocks.0", element=1)}, {"wrap": "a ModelOutput"}, "without a tensor at element 1"),
    ],
)
def test_a_broken_contract_is_named(clauses: dict[Point, Clause], options: dict[str, Any], match: str) -> None:
    network = model(**options)
    with pytest.raises(ContractError, match=match), Capture(network, clauses):
        network(rows())


@pytest.mark.parametrize("output", [None, "text", ([],), {"logits": None}, ()], ids=repr)
def test_an_output_without_a_tensor_is_refused(output: object) -> None:
    with pytest.raises(ContractError, match="without a tensor at element 0"):
        select(Point("lm", "output", 0), output, 0)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((torch.zeros(1), torch.ones(1)), {}, 0.0),
        ((), {"attention_mask": torch.ones(1), "hidden_states": torch.zeros(1)}, 0.0),
        ((None,), {"inputs_embeds": torch.zeros(1), "position_ids": torch.ones(1)}, 0.0),
        ((), {"pixels": torch.zeros(1), "flag": True}, 0.0),
    ],
)
def test_the_input_of_a_module_is_its_hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any], expected: float) -> None:
    assert first_input(Point("lm", "input", 0), args, kwargs).item() == expected


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((None,), {"flag": True}), (([torch.zeros(1)],), {})])
def test_an_input_without_a_tensor_is_refused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=r"lm\.00\.input cannot tell which input holds the hidden states"):
        first_input(Point("lm", "input", 0), args, kwargs)


def test_two_unnamed_tensors_by_keyword_are_refused() -> None:
    with pytest.raises(ContractError):
        first_input(Point("lm", "input", 0), (), {"mask": torch.ones(1), "x": torch.zeros(1)})


def test_a_bare_tensor_has_no_second_element() -> None:
    with pytest.raises(ContractError):
        select(Point("lm", "output", 0), torch.zeros(2, 3, 4), 1)


def test_hooks_of_others_survive_and_run() -> None:
    network, ran = model(), []
    network.blocks[0].register_forward_hook(lambda *_: ran.append("output") and None)
    network.blocks[0].register_forward_pre_hook(lambda *_: ran.append("input") and None)
    before = hook_counts(network)
    with Capture(network, {**blocks(0), **blocks(0, side="input")}):
        network(rows())
    assert ran == ["input", "output"]
    assert hook_counts(network) == before
    network(rows())
    assert ran == ["input", "output"] * 2


def test_a_hook_that_replaces_an_output_is_seen_by_the_capture() -> None:
    network = model()
    network.blocks[0].register_forward_hook(lambda _, args, output: torch.zeros_like(output))
    with Capture(network, blocks(0)) as capture:
        network(rows())
    assert not capture.values[Point("lm", "output", 0)].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_values_of_every_dtype_come_back_as_float32(dtype: torch.dtype) -> None:
    network, x = model().to(dtype), rows().to(dtype)
    with Capture(network, blocks(2)) as capture:
        network(x)
    value = capture.values[Point("lm", "output", 2)]
    assert value.dtype is torch.float32
    assert torch.equal(value, streams(network, x)[3].float())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_capture_works_in_every_gradient_mode(mode: Callable[[], Any]) -> None:
    network, x = model(), rows()
    with mode(), Capture(network, blocks(1), lambda _, value: value[:, 0]) as capture:
        network(x)
    assert torch.equal(capture.values[Point("lm", "output", 1)], streams(network, x)[2][:, 0])


def test_nested_captures_record_independently() -> None:
    network, x = model(), rows()
    with Capture(network, blocks(0, 2)) as outer, Capture(network, blocks(0, 1)) as inner:
        network(x)
    for capture, layers in ((outer, (0, 2)), (inner, (0, 1))):
        assert set(capture.values) == set(blocks(*layers))
        assert all(torch.equal(capture.values[Point("lm", "output", layer)], streams(network, x)[layer + 1]) for layer in layers)
    assert no_hooks(network)


def test_an_inner_stop_leaves_the_outer_capture_short_and_says_so() -> None:
    network = model()
    with pytest.raises(ContractError, match=r"1 of 2 points never fired"), Capture(network, blocks(0, 2)), Capture(network, blocks(1), stop=True):
        network(rows())
    assert no_hooks(network)


def test_an_outer_stop_does_not_pass_for_a_complete_inner_capture() -> None:
    network = model()
    with Capture(network, blocks(0), stop=True):
        with Capture(network, blocks(2)) as inner:
            network(rows())
        assert Point("lm", "output", 2) in inner.values


def test_a_clause_may_name_one_of_a_module_s_calls() -> None:
    model, points = Model([], repeats=3), {Point("lm", side, step=call): call for side in ("input", "output") for call in range(3)}
    clauses = {point: Clause("last", point.stream, WIDTH, "raw", call=call) for point, call in points.items()}
    with torch.no_grad(), Capture(model, clauses) as captured:
        model(torch.randn(2, 3, WIDTH))
    for call in range(2):
        assert torch.equal(captured.values[Point("lm", "output", step=call)], captured.values[Point("lm", "input", step=call + 1)])
    assert not torch.equal(captured.values[Point("lm", "input", step=0)], captured.values[Point("lm", "input", step=1)])


def test_a_call_that_never_happens_is_named() -> None:
    clauses = {Point("lm", "output", step=3): Clause("last", "output", WIDTH, "raw", call=3)}
    with pytest.raises(ContractError, match=r"lm\.t03\.output at last"), Capture(model := Model([], repeats=3), clauses):
        model(torch.randn(2, 3, WIDTH))


def test_folded_rows_are_positions_of_one_row() -> None:
    model, x = Model([Block()]), torch.randn(6, 4, WIDTH)
    point = Point("vision", "input", layer=0)
    with torch.no_grad(), Capture(model, {point: Clause("blocks.0", "input", WIDTH, "raw", fold=3)}) as captured:
        model(x)
    assert torch.equal(captured.values[point], torch.stack([torch.cat([*x[:3]]), torch.cat([*x[3:]])]))
