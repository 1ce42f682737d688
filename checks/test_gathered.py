"""Is one point nothing but rows of another?"""

import pytest

from harness.contract.gathered import gathered

pytestmark = pytest.mark.question("gathered")


def test_a_point_is_rows_of_another(case, measured, judge):
    outcome = judge(measured(gathered, **case.finding.params))
    assert outcome.holds, outcome.message
