"""Are the image tokens where the span map says?"""

import pytest

from harness.contract.span_reach import span_reach

pytestmark = pytest.mark.question("span_reach")


def test_a_changed_image_moves_its_span_and_nothing_else(case, measured, judge):
    outcome = judge(measured(span_reach))
    assert outcome.holds, outcome.message
