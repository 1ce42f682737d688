"""Is a sample's row the same alone as among others?"""

import pytest

from harness.contract.batching import batching

pytestmark = pytest.mark.question("batching")


def test_a_row_does_not_depend_on_its_batch(case, measured, judge):
    outcome = judge(measured(batching, **case.finding.params))
    assert outcome.holds, outcome.message
