"""Less than a minute of soak; `python -m tests.soak` is the hour."""

from tests.soak.run import Soak

SEED, SECONDS = 20, 45


def test_a_tunnel_under_traffic_and_faults_stays_small_and_right() -> None:
    report = Soak(SEED, SECONDS).run()
    assert sum(report.faults.values()) >= 3
    assert report.records > 300
    assert report.mis_stamped == 0
    assert report.strange_lines == []
    assert report.kept
    before, after = report.resident
    assert abs(after - before) <= before / 10
    assert report.descriptors[0] == report.descriptors[1]
    assert report.threads == 1
