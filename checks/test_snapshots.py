"""Did the statistics of stored features move away from the accepted ones?"""

import pytest

from harness.metrics.summary import summary
from harness.sketch import sketch
from harness.types import Measurement

pytestmark = pytest.mark.question("snapshots")


def test_statistics_stay_at_their_accepted_values(case, features, runtime, statistics, judge):
    point, dataset = case.finding.params["point"], case.finding.params["dataset"]
    rows = features(case.subject, dataset, [point])[point].values
    held = {**summary(rows), **sketch(rows)} == statistics(name=runtime.device_class)
    outcome = judge(Measurement(int(not held), detail="" if held else "\n" + "\n".join(statistics.get_assert_diff())))
    assert outcome.holds, outcome.message
