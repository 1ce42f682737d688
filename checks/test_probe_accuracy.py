"""How well does a linear probe find the task's description in the features of tasks it never saw?"""

import pytest

from harness.metrics.linear_probe import linear_probe
from harness.types import Measurement

pytestmark = pytest.mark.question("probe_accuracy")


def test_probe_accuracy(case, probed, targets, judge, seed):
    found = linear_probe(probed(case), *targets, permute=case.finding.params.get("permute", False), seed=seed)
    outcome = judge(Measurement(found.value, found.low, found.high, f"{len(targets.groups)} tasks held out in five folds", found.chance))
    assert outcome.holds, outcome.message
