"""Do several frameworks compute the same from the same weights?"""

import pytest

from harness.contract.frameworks import frameworks

pytestmark = pytest.mark.question("frameworks")


def test_frameworks_agree_on_the_same_weights(case, measured, judge):
    outcome = judge(measured(frameworks, **case.finding.params))
    assert outcome.holds, outcome.message
