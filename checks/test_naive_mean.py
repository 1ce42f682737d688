"""Does padding dilute a mean over all positions?"""

import pytest

from harness.contract.naive_mean import naive_mean

pytestmark = pytest.mark.question("naive_mean")


def test_a_plain_mean_is_diluted_by_padding(case, measured, judge):
    outcome = judge(measured(naive_mean, **case.finding.params))
    assert outcome.holds, outcome.message
