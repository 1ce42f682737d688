"""The grammar of layers and positions takes what it says and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.indices import Indices

NUMBERS = st.lists(st.integers(-40, 40), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("text", "count", "found"),
    [
        ("all", 3, (0, 1, 2)),
        ("0,6,-1", 32, (0, 6, 31)),
        ("0-5", 32, (0, 1, 2, 3, 4, 5)),
        ("-1", 32, (31,)),
        ("3,1,1-2,-1", 4, (1, 2, 3)),
        (" 0 , 2 ", 3, (0, 2)),
        ("4-4", 5, (4,)),
        ("-3,0", 3, (0,)),
    ],
)
def test_numbers_ranges_and_all_are_understood(text: str, count: int, found: tuple[int, ...]) -> None:
    assert Indices.parse(text).of(count) == found


@pytest.mark.parametrize("text", ["", ",", "a", "1,,2", "5-3", "-3--1", "-3-1", "1-", "1.5", "0:5", "ALL", "all,1", "--1", "1 2"])
def test_anything_else_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no layer(.|\n)*expected all, numbers such as 0,6,-1, or ranges"):
        Indices.parse(text, "layer")


@pytest.mark.parametrize(("text", "count", "wrong"), [("0,6,32", 32, "32"), ("-33", 32, "-33"), ("0-5", 5, "5"), ("0", 0, "0")])
def test_a_number_that_is_not_there_is_named_with_those_that_are(text: str, count: int, wrong: str) -> None:
    with pytest.raises(UsageError, match=rf"there is no layer {wrong}(.|\n)*expected {-count} to {count - 1}"):
        Indices.parse(text, "layer").of(count)


@given(NUMBERS, st.integers(1, 40))
def test_what_is_written_is_what_is_found(numbers: list[int], count: int) -> None:
    asked = Indices.parse(",".join(map(str, numbers)))
    if all(-count <= number < count for number in numbers):
        assert asked.of(count) == tuple(sorted({range(count)[number] for number in numbers}))
    else:
        with pytest.raises(UsageError):
            asked.of(count)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 61))
def test_a_range_is_python_s_with_its_end_included(first: int, length: int, count: int) -> None:
    last = first + length
    asked = Indices.parse(f"{first}-{last}")
    assert asked == Indices.parse(",".join(map(str, range(first, last + 1))))
    if last < count:
        assert asked.of(count) == tuple(range(count))[first : last + 1]


@given(NUMBERS)
def test_an_index_is_printed_as_it_is_read(numbers: list[int]) -> None:
    asked = Indices.parse(",".join(map(str, numbers)))
    assert Indices.parse(str(asked)) == asked


@given(st.text(alphabet="0123456789-, al", max_size=8))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        found = Indices.parse(text).of(1000)
    except UsageError:
        return
    assert list(found) == sorted(set(found)) and all(0 <= number < 1000 for number in found)
