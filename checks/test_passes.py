"""How often does a stack run in one forward?"""

import pytest

from harness.contract.passes import passes

pytestmark = pytest.mark.question("passes")


def test_a_stack_runs_as_often_as_it_should(case, measured, judge):
    outcome = judge(measured(passes, **case.finding.params))
    assert outcome.holds, outcome.message
