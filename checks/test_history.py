"""Does an output depend on what a stateful model saw before?"""

import pytest

from harness.contract.history import history

pytestmark = pytest.mark.question("history")


def test_an_output_and_the_steps_before_it(case, measured, judge):
    outcome = judge(measured(history, **case.finding.params))
    assert outcome.holds, outcome.message
