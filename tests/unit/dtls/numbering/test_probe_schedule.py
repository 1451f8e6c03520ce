"""How often is probed at the most."""

from __future__ import annotations

from qosctl.bpf.dscp import DF, EF
from qosctl.dtls.numbering.class_path import ClassPath
from qosctl.dtls.numbering.overtaking import Overtaking
from qosctl.dtls.numbering.probe_schedule import MOST_AT_ONCE_S, MOST_PER_S, ProbeSchedule

STEP_S = 1e-5
BURST = MOST_PER_S * MOST_AT_ONCE_S


def test_all_classes_together_are_probed_no_more_often_than_the_client_can_bear() -> None:
    """However many numbers are sent: a burst, and then as many as a second may have."""
    bulk = ClassPath(DF, Overtaking())
    schedule = ProbeSchedule([bulk, ClassPath(EF, Overtaking())], 64)
    probes = 0
    for step in range(100_000):
        now, newest = step * STEP_S, step * 1000
        if not schedule.passes(now, newest, {DF}):
            schedule.probed(bulk, now, newest)
            probes += 1
    assert MOST_PER_S <= probes <= MOST_PER_S + BURST + 1
