"""Is the second model of `--compare BEFORE AFTER` the first one still?"""

import pytest

pytestmark = pytest.mark.compare


def test_features_stay_within_the_noise_floor(drift):
    assert drift.verdict.holds, f"{drift.verdict.word}: {drift.verdict.reason}\n{drift.table(drift.where(lambda point: point.moved))}"


def test_the_geometry_stays(drift):
    assert not (turned := drift.where(lambda point: point.moved and point.cka is not None and point.cka.low < 0.99)), drift.table(turned)


def test_no_feature_dies(drift):
    assert not (died := drift.where(lambda point: point.dead[1] > point.dead[0])), drift.table(died)


def test_a_probe_reads_the_task_as_well(drift):
    if not drift.probes:
        pytest.skip(drift.probe_absent)
    assert not drift.worse, "\n".join(f"{probe.place}: {probe.before:.3f} -> {probe.after:.3f}" for probe in drift.worse)
