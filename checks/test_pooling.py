"""Do the poolings obey their identities on the model's own activations?"""

import pytest

from harness.contract.pooling import pooling

pytestmark = pytest.mark.question("pooling")


def test_pooling_obeys_its_identity(case, adapter, batch, judge):
    outcome = judge(pooling(adapter, batch, **case.finding.params))
    assert outcome.holds, outcome.message
