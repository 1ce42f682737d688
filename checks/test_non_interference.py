"""Does capture leave outputs, hooks, modes, gradients, parameters and the random state as they were?"""

import pytest

from harness.contract.non_interference import non_interference

pytestmark = pytest.mark.question("non_interference")


def test_capture_leaves_no_trace(case, measured, judge):
    outcome = judge(measured(non_interference, **case.finding.params))
    assert outcome.holds, outcome.message
