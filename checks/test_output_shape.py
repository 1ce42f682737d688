"""Does an output have the documented shape?"""

import pytest

from harness.contract.output_shape import output_shape

pytestmark = pytest.mark.question("output_shape")


def test_an_output_has_the_documented_shape(case, measured, judge):
    outcome = judge(measured(output_shape, **case.finding.params))
    assert outcome.holds, outcome.message
