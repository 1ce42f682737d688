"""Is every parameter the checkpoint's own?"""

import pytest

from harness.contract.loaded import loaded

pytestmark = pytest.mark.question("loaded")


def test_no_parameter_was_left_at_its_initial_value(case, measured, judge):
    outcome = judge(measured(loaded))
    assert outcome.holds, outcome.message
