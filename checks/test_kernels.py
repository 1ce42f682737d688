"""Do the attention kernels of a model agree?"""

import pytest

from harness.contract.kernels import kernels

pytestmark = pytest.mark.question("kernels")


def test_a_second_kernel_gives_the_same_features(case, measured, judge):
    outcome = judge(measured(kernels))
    assert outcome.holds, outcome.message
