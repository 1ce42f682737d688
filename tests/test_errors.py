"""Every error says what, where, got, expected and the next command, in that order and only as far as known."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import errors
from harness.errors import ContractError, DamagedError, HarnessError, MissingError, UnknownNameError, UsageError

TREE = {UsageError: HarnessError, UnknownNameError: UsageError, MissingError: HarnessError, DamagedError: HarnessError, ContractError: HarnessError}


@pytest.mark.parametrize("error", TREE)
def test_the_tree_is_the_one_drawn(error: type[HarnessError]) -> None:
    assert error.__bases__ == (TREE[error],)


def test_the_exported_names_are_the_sorted_tree() -> None:
    assert errors.__all__ == sorted(error.__name__ for error in (HarnessError, *TREE))
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "it broke"),
        ({"where": "a.toml"}, "it broke\n  where    a.toml"),
        ({"next": "run x", "got": 0}, "it broke\n  got      0\n  next     run x"),
        (
            {"next": "run x", "expected": [1], "got": "", "where": "file"},
            "it broke\n  where    file\n  got      \n  expected [1]\n  next     run x",
        ),
    ],
)
@pytest.mark.parametrize("error", [HarnessError, UsageError, MissingError, DamagedError, ContractError])
def test_the_message_has_one_aligned_line_for_each_known_part(error: type[HarnessError], given: dict[str, object], message: str) -> None:
    raised = error("it broke", **given)  # type: ignore[arg-type]
    assert str(raised) == message
    assert (raised.what, raised.where, raised.got, raised.expected, raised.next) == (
        "it broke",
        *(given.get(part) for part in ("where", "got", "expected", "next")),
    )


def test_parts_are_given_by_name_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        HarnessError("it broke", "a.toml")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("opnvla", ["openvla", "spatialvla", "lerobot_pi0"], "openvla"),
        ("cka", ["cknna", "cka_linear", "mmd"], "cknna"),
        ("anything", [], None),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, known: list[str], nearest: str | None) -> None:
    error = UnknownNameError("model", name, iter(known), where="here", next="harness doctor")
    assert f"there is no model named {name!r}" in str(error)
    assert error.nearest == nearest
    assert (f"the nearest is {nearest!r}" in str(error)) == (nearest is not None)
    assert "  where    here" in str(error) and "  next     harness doctor" in str(error)
    assert "none is registered" in str(error) if not known else all(name in (error.expected or "") for name in known)


@given(name=st.text(max_size=12), known=st.sets(st.text(min_size=1, max_size=8), max_size=30))
def test_what_is_suggested_is_always_a_known_name(name: str, known: set[str]) -> None:
    error = UnknownNameError("metric", name, known)
    assert error.nearest in known if known else error.nearest is None


@pytest.mark.parametrize(("count", "counted"), [(112, True), (3, False)])
def test_a_long_list_of_names_is_cut_and_counted(count: int, counted: bool) -> None:
    names = [f"task{number:03d}" for number in range(count)]
    error = UnknownNameError("task", "task002", names)
    message = str(error)
    assert (f"… ({count} in all)" in message) == counted
    assert all(name in message for name in names) != counted
    assert str(error.expected).startswith("task002, ")


@pytest.mark.parametrize("error", [HarnessError, UsageError, MissingError, DamagedError, ContractError])
def test_an_error_survives_the_way_from_another_process(error: type[HarnessError]) -> None:
    raised = error("it broke", where="a.toml", got=1, expected=2, next="run x")
    copied = pickle.loads(pickle.dumps(raised))
    assert (type(copied), str(copied), copied.what, copied.got) == (error, str(raised), "it broke", 1)


def test_an_unknown_name_survives_the_way_from_another_process() -> None:
    raised = UnknownNameError("model", "opnvla", ["openvla"])
    copied = pickle.loads(pickle.dumps(raised))
    assert (str(copied), copied.nearest) == (str(raised), "openvla")
