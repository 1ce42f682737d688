"""Does a family refuse a kernel that would change its arithmetic?"""

import pytest

from harness.contract.kernel_refused import kernel_refused

pytestmark = pytest.mark.question("kernel_refused")


def test_a_kernel_is_refused(case, measured, judge):
    outcome = judge(measured(kernel_refused, **case.finding.params))
    assert outcome.holds, outcome.message
