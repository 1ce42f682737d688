"""Do trained features beat those of the same network before training?"""

import pytest

from harness.metrics.probe_gain import probe_gain

pytestmark = pytest.mark.question("probe_gain")


def test_gain_over_the_random_network(case, probe, rows, judge):
    outcome = judge(probe(probe_gain, rows(), rows(scale="random")))
    assert outcome.holds, outcome.message
