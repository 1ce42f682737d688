"""Does the same batch give the same activations twice?"""

import pytest

from harness.contract.determinism import determinism

pytestmark = pytest.mark.question("determinism")


def test_capture_is_deterministic(case, adapter, batch, judge):
    outcome = judge(determinism(adapter, batch))
    assert outcome.holds, outcome.message
