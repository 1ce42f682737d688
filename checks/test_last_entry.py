"""Is `hidden_states[-1]` post-norm?"""

import pytest

from harness.contract.last_entry import last_entry

pytestmark = pytest.mark.question("last_entry")


def test_last_entry_of_the_tuple_against_the_final_norm(case, measured, judge):
    outcome = judge(measured(last_entry, **case.finding.params))
    assert outcome.holds, outcome.message
