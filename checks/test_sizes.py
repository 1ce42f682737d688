"""Are depth, width and sequence what the documents say?"""

import pytest

from harness.contract.sizes import sizes

pytestmark = pytest.mark.question("sizes")


def test_a_size_is_as_documented(case, adapter, batch, judge):
    outcome = judge(sizes(adapter, batch, **case.finding.params))
    assert outcome.holds, outcome.message
