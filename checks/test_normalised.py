"""Do mean 0 and standard deviation 1 follow from the final LayerNorm, whatever the weights?"""

import pytest

from harness.contract.normalised import normalised

pytestmark = pytest.mark.question("normalised")


def test_a_norm_s_rows_have_mean_0_and_standard_deviation_1(case, measured, judge):
    outcome = judge(measured(normalised, **case.finding.params))
    assert outcome.holds, outcome.message
