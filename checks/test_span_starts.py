"""Do the spans begin where the documents put them?"""

import pytest

from harness.contract.span_starts import span_starts

pytestmark = pytest.mark.question("span_starts")


def test_spans_begin_where_documented(case, measured, judge):
    outcome = judge(measured(span_starts, **case.finding.params))
    assert outcome.holds, outcome.message
