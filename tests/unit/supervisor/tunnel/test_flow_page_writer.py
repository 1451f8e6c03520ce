"""Everything that a client counts comes into its flow's page, under the right name."""

from __future__ import annotations

import dataclasses

import pytest
from qosctl.bpf.abi import FLOW_INFO_WORDS
from qosctl.bpf.dscp import DF
from qosctl.bpf.flow_page.page import page_words, statistics_of
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.numbering.snapshot import Backlog, Snapshot
from qosctl.dtls.record.protection import OpenCounts
from qosctl.dtls.session.reconnect import Reason
from qosctl.dtls.session.session_stats import SessionCounters, Statistics
from qosctl.supervisor.tunnel.flow_page_writer import store

UNTOUCHED = 0xDEAD_BEEF


def counted(counters: SessionCounters) -> Statistics:
    numbering = Snapshot("replay-safe", DF, {DF: Backlog(7, 70.0)}, 5, 4, 3, 2, 1, 6)
    return counters.snapshot(None, None, suite="", tls_suite="", mtu=1400, tun_refused=0, numbering=numbering)


def stored(statistics: Statistics) -> dict[Statistic, int]:
    page = page_words(memoryview(bytearray(8 * FLOW_INFO_WORDS)))
    page[:] = memoryview(UNTOUCHED.to_bytes(8, "little") * FLOW_INFO_WORDS).cast("Q")
    store(statistics, page)
    return dict(zip(Statistic, statistics_of(page.cast("B")), strict=True))


def test_no_statistic_is_forgotten() -> None:
    assert [statistic.label for statistic, value in stored(counted(SessionCounters())).items() if value == UNTOUCHED] == []


@pytest.mark.parametrize("reason", DropReason, ids=[reason.name for reason in DropReason])
def test_what_is_dropped_counts_as_its_kind_and_as_nothing_else(reason: DropReason) -> None:
    words = stored(dataclasses.replace(counted(SessionCounters()), dropped={reason: 3}))
    drops = {statistic.label: value for statistic, value in words.items() if "DROPPED" in statistic.name and value}
    assert drops == {f"dropped_{reason.kind.name.lower()}": 3}


@pytest.mark.parametrize("reason", Reason, ids=[reason.name for reason in Reason])
def test_a_reconnect_counts_as_what_it_was_for(reason: Reason) -> None:
    counters = SessionCounters()
    counters.reconnects[reason] = 2
    assert stored(counted(counters))[Statistic[f"RECONNECTS_{reason.name}"]] == 2


def test_each_record_that_is_not_opened_has_a_reason() -> None:
    fates = {field.name for field in dataclasses.fields(OpenCounts)} - {"opened"}
    assert fates <= {reason.name.lower() for reason in DropReason}
