"""Do trained features beat those of the same network before training?"""

import pytest

from harness.metrics.probe_gain import probe_gain
from harness.types import Measurement

pytestmark = pytest.mark.question("probe_gain")


def test_gain_over_the_random_network(case, probed, targets, judge, seed):
    found = probe_gain(probed(case), probed(case, scale="random"), *targets, seed=seed)
    outcome = judge(Measurement(found.value, found.low, found.high, "paired over tasks, same folds"))
    assert outcome.holds, outcome.message
