"""What does a documented metric give perfect predictions?"""

import pytest

from harness.contract.metric_ceiling import metric_ceiling

pytestmark = pytest.mark.question("metric_ceiling")


def test_perfect_predictions_reach_the_ceiling(case, measured, judge):
    outcome = judge(measured(metric_ceiling, **case.finding.params))
    assert outcome.holds, outcome.message
