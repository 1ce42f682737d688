"""What do the largest value and the dead features of recorded samples say?"""

import pytest

from harness.contract.extremes import extremes

pytestmark = pytest.mark.question("extremes")


def test_extremes_are_what_is_said(case, features, judge):
    point = case.finding.params["point"]
    rows = features(case.subject, "libero_rlds", [point])[point]
    outcome = judge(extremes(rows, **{name: value for name, value in case.finding.params.items() if name != "point"}))
    assert outcome.holds, outcome.message
