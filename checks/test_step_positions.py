"""Does a position mean the same token in every stream that is written for a step?"""

import pytest

from harness.contract.step_positions import step_positions

pytestmark = pytest.mark.question("step_positions")


def test_a_position_is_one_token(case, measured, judge):
    outcome = judge(measured(step_positions, **case.finding.params))
    assert outcome.holds, outcome.message
