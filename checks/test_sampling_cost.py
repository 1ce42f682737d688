"""What does sampling cost beside the prefill alone?"""

import pytest

from harness.contract.sampling_cost import sampling_cost

pytestmark = pytest.mark.question("sampling_cost")


def test_sampling_costs_what_is_claimed(case, measured, judge):
    outcome = judge(measured(sampling_cost))
    assert outcome.holds, outcome.message
