"""Have all blocks of a stack together the documented shape?"""

import pytest

from harness.contract.stack_shape import stack_shape

pytestmark = pytest.mark.question("stack_shape")


def test_stacked_blocks_have_the_documented_shape(case, measured, judge):
    outcome = judge(measured(stack_shape, **case.finding.params))
    assert outcome.holds, outcome.message
