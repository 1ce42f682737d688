"""Is the second model of `--compare BEFORE AFTER` the first one still?"""

import pytest

pytestmark = pytest.mark.compare


def test_features_stay_within_the_noise_floor(drift):
    assert drift.verdict.word in ("identical", "noise"), f"{drift.verdict.word}: {drift.verdict.reason}\n{drift.table(drift.moved)}"


def test_the_geometry_stays(drift):
    assert not (moved := drift.where(lambda point: point.cka is not None and point.cka.value < 0.99)), drift.table(moved)


def test_no_feature_dies(drift):
    assert not (moved := drift.where(lambda point: point.dead[1] > point.dead[0])), drift.table(moved)


def test_a_probe_reads_the_task_as_well(drift):
    if not drift.probes:
        pytest.skip(drift.probe_absent)
    assert not (worse := [probe for probe in drift.probes if probe.high < 0]), "\n".join(f"{probe.place}: {probe.before:.3f} -> {probe.after:.3f}" for probe in worse)
