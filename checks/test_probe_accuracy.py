"""How well does a linear probe find the task's description in the features of tasks it never saw?"""

import pytest

from harness.metrics.linear_probe import linear_probe

pytestmark = pytest.mark.question("probe_accuracy")


def test_probe_accuracy(case, probe, rows, judge):
    outcome = judge(probe(linear_probe, rows(), permute=case.finding.params.get("permute", False)))
    assert outcome.holds, outcome.message
