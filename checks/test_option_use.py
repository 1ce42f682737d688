"""Does an option of a model card reach the features?"""

import pytest

from harness.contract.option_use import option_use

pytestmark = pytest.mark.question("option_use")


def test_an_option_moves_the_features(case, measured, judge):
    outcome = judge(measured(option_use, **case.finding.params))
    assert outcome.holds, outcome.message
