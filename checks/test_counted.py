"""Is every record that gave no row told?"""

import pytest

from harness.contract.counted import counted

pytestmark = pytest.mark.question("counted")


def test_what_gives_no_row_is_told(case, measured, judge):
    outcome = judge(measured(counted))
    assert outcome.holds, outcome.message
