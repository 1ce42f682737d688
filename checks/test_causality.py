"""Can later words reach earlier positions?"""

import pytest

from harness.contract.causality import causality

pytestmark = pytest.mark.question("causality")


def test_appended_words_leave_earlier_positions_alone(case, measured, judge):
    outcome = judge(measured(causality))
    assert outcome.holds, outcome.message
