"""Is the input of every block the output of the block before it?"""

import pytest

from harness.contract.residual_chain import residual_chain

pytestmark = pytest.mark.question("residual_chain")


def test_blocks_hand_on_what_they_put_out(case, adapter, batch, judge):
    outcome = judge(residual_chain(adapter, batch))
    assert outcome.holds, outcome.message
