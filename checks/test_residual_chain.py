"""Is the input of every block the output of the block before it?"""

import pytest

from harness.contract.residual_chain import residual_chain

pytestmark = pytest.mark.question("residual_chain")


def test_blocks_hand_on_what_they_put_out(case, measured, judge):
    outcome = judge(measured(residual_chain))
    assert outcome.holds, outcome.message
