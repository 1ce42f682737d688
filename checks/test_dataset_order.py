"""Does the same split always give the same samples in the same order?"""

import pytest

from harness.contract.dataset_order import dataset_order

pytestmark = pytest.mark.question("dataset_order")


def test_a_split_is_read_in_one_order(case, measured, judge):
    outcome = judge(measured(dataset_order, **case.finding.params))
    assert outcome.holds, outcome.message
