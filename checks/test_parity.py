"""Does the adapter compute what upstream's own code computed?"""

import pytest

from harness import registry

pytestmark = pytest.mark.question("parity")


def test_the_adapter_agrees_with_upstream(case, measured, judge):
    measure = registry.load("contract", case.finding.params["measure"])
    outcome = judge(measured(measure, **case.finding.params.get("options", {})))
    assert outcome.holds, outcome.message
