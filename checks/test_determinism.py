"""Does the same batch give the same activations twice?"""

import pytest

from harness.contract.determinism import determinism

pytestmark = pytest.mark.question("determinism")


def test_capture_is_deterministic(case, measured, judge):
    outcome = judge(measured(determinism))
    assert outcome.holds, outcome.message
