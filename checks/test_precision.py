"""How far do features move in half precision?"""

import pytest

from harness.contract.precision import precision

pytestmark = pytest.mark.question("precision")


def test_half_precision_keeps_the_features(case, measured, judge):
    outcome = judge(measured(precision, **case.finding.params))
    assert outcome.holds, outcome.message
