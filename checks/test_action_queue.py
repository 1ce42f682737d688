"""Does a policy run its model at every step?"""

import pytest

from harness.contract.action_queue import action_queue

pytestmark = pytest.mark.question("action_queue")


def test_a_hook_fires_or_does_not(case, measured, judge):
    outcome = judge(measured(action_queue, **case.finding.params))
    assert outcome.holds, outcome.message
