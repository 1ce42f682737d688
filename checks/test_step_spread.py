"""Do tokens change from one denoise step to the next?"""

import pytest

from harness.contract.step_spread import step_spread

pytestmark = pytest.mark.question("step_spread")


def test_tokens_change_with_the_denoise_step_or_do_not(case, measured, judge):
    outcome = judge(measured(step_spread, **case.finding.params))
    assert outcome.holds, outcome.message
