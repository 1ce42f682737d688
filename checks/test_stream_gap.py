"""Does a position mean the same token in every stream?"""

import pytest

from harness.contract.stream_gap import stream_gap

pytestmark = pytest.mark.question("stream_gap")


def test_streams_are_as_far_apart_as_the_image_is_long(case, measured, judge):
    outcome = judge(measured(stream_gap, **case.finding.params))
    assert outcome.holds, outcome.message
