"""Are depth, width and sequence what the documents say?"""

import pytest

from harness.contract.sizes import sizes

pytestmark = pytest.mark.question("sizes")


def test_a_size_is_as_documented(case, measured, judge):
    outcome = judge(measured(sizes, **case.finding.params))
    assert outcome.holds, outcome.message
