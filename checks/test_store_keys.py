"""Do two models, dtypes or poolings ever share a store entry?"""

import pytest

from harness.contract.store_keys import store_keys

pytestmark = pytest.mark.question("store_keys")


def test_whatever_changes_a_feature_changes_its_key(case, measured, judge):
    outcome = judge(measured(store_keys))
    assert outcome.holds, outcome.message
