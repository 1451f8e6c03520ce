"""The backlog that people are shown, of each class: what a queue of known length holds."""

from __future__ import annotations

import pytest
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.numbering.replay_safe import ReplaySafeNumbering
from qosctl.dtls.numbering.snapshot import Backlog

BASE_S, QUEUE_S, STEP_S = 0.005, 0.1, 0.001
EVERY = {DF: 1, EF: 20}  # steps between two records


def _send(numbering: ReplaySafeNumbering, seconds: float, spared: frozenset[Dscp]) -> tuple[float, list[tuple[float, int]]]:
    """Send through a queue that stands, except in the way of the classes that are spared it.

    Return the time, and the probes that are still on the way with their times of arrival.
    """
    on_the_way: list[tuple[float, int]] = []
    for step in range(round(seconds / STEP_S)):
        now = step * STEP_S
        for arrival in [arrival for arrival in on_the_way if arrival[0] <= now]:
            on_the_way.remove(arrival)
            numbering.probe_echoed(arrival[1], now)
        for dscp, every in EVERY.items():
            if step % every:
                continue
            while (due := numbering.probe_due(now, (dscp,))) is not None:
                queue = QUEUE_S if due not in spared and now > 0.2 else 0.0
                on_the_way.append((now + BASE_S + queue, numbering.probe_sent(due, now)))
                numbering.take(due, 1, now)
            numbering.take(dscp, 1, now)
    return now, on_the_way


@pytest.mark.parametrize("spared", [frozenset(), frozenset({EF})], ids=["one_queue_for_all", "priority_overtakes"])
def test_it_is_what_was_sent_in_the_time_that_the_queue_takes(spared: frozenset[Dscp]) -> None:
    numbering = ReplaySafeNumbering()
    now, _ = _send(numbering, 3.0, spared)
    backlog = numbering.snapshot(now).backlog or {}
    for dscp, every in EVERY.items():
        queue = 0.0 if dscp in spared else QUEUE_S
        assert backlog[dscp].milliseconds == pytest.approx(queue * 1000, abs=8)
        records = queue / STEP_S / every
        assert backlog[dscp].records == pytest.approx(records, abs=3 + records / 5)


def test_nothing_is_queued_once_it_has_had_the_time_to_arrive() -> None:
    numbering = ReplaySafeNumbering()
    now, on_the_way = _send(numbering, 3.0, frozenset({EF}))
    for arrival, probe in on_the_way:
        numbering.probe_echoed(probe, arrival)
    later = numbering.snapshot(now + 2 * QUEUE_S).backlog or {}
    assert set(later.values()) == {Backlog(0, 0.0)}
