"""Do declared inputs move the features, and undeclared ones not?"""

import pytest

from harness.contract.input_use import input_use

pytestmark = pytest.mark.question("input_use")


def test_a_changed_input_moves_the_features_or_does_not(case, measured, judge):
    outcome = judge(measured(input_use, **case.finding.params))
    assert outcome.holds, outcome.message
