"""Do the poolings obey their identities on the model's own activations?"""

import pytest

from harness.contract.pooling import pooling

pytestmark = pytest.mark.question("pooling")


def test_pooling_obeys_its_identity(case, measured, judge):
    outcome = judge(measured(pooling, **case.finding.params))
    assert outcome.holds, outcome.message
