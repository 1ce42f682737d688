"""How well do so many recorded samples tell a statistic of the features?"""

import pytest

from harness.contract.interval_at import interval_at

pytestmark = pytest.mark.question("interval")


def test_a_statistic_is_as_sure_as_is_said(case, features, seed, judge):
    point = case.finding.params["point"]
    rows = features(case.subject, "libero_rlds", [point])[point]
    outcome = judge(interval_at(rows, seed=seed, **{name: value for name, value in case.finding.params.items() if name != "point"}))
    assert outcome.holds, outcome.message
