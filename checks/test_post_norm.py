"""Is the final-norm point the norm of the raw last block?"""

import pytest

from harness.contract.post_norm import post_norm

pytestmark = pytest.mark.question("post_norm")


def test_final_norm_is_the_norm_of_the_last_block(case, measured, judge):
    outcome = judge(measured(post_norm))
    assert outcome.holds, outcome.message
