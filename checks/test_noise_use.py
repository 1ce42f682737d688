"""Does the sampler's noise reach a point?"""

import pytest

from harness.contract.noise_use import noise_use

pytestmark = pytest.mark.question("noise_use")


def test_noise_reaches_a_point_or_does_not(case, measured, judge):
    outcome = judge(measured(noise_use, **case.finding.params))
    assert outcome.holds, outcome.message
