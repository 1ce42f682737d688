"""Is every point the entry of the framework's own `hidden_states` that the contract names?"""

import pytest

from harness.contract.framework_tuple import framework_tuple

pytestmark = pytest.mark.question("framework_tuple")


def test_points_equal_the_frameworks_tuple(case, adapter, batch, judge):
    outcome = judge(framework_tuple(adapter, batch))
    assert outcome.holds, outcome.message
