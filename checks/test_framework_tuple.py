"""Is every point the entry of the framework's own `hidden_states` that the contract names?"""

import pytest

from harness.contract.framework_tuple import framework_tuple

pytestmark = pytest.mark.question("framework_tuple")


def test_points_equal_the_frameworks_tuple(case, measured, judge):
    outcome = judge(measured(framework_tuple))
    assert outcome.holds, outcome.message
