"""What was carried, by class: each packet once, under the class that the network would see."""

from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import EF, Dscp
from qosctl.dtls.numbering.snapshot import Backlog, Snapshot
from qosctl.dtls.packets.counters_by_dscp import DscpCounters, InnerTraffic
from qosctl.dtls.packets.inner_header import dscp_of

SNAPSHOT = Snapshot("replay-safe", EF, {EF: Backlog(3, 1.5)}, 9, 7, 1, 4, 20, 2)


@given(st.lists(st.binary(min_size=1, max_size=60)))
def test_any_packets_add_up_by_class_and_in_all(packets: list[bytes]) -> None:
    counts = DscpCounters()
    for packet in packets:
        counts.count(packet)
    expected = {
        dscp: InnerTraffic(len(members), sum(map(len, members)))
        for dscp in Dscp.all()
        if (members := [packet for packet in packets if dscp_of(packet) is dscp])
    }
    assert counts.by_class() == expected
    assert list(counts.by_class()) == sorted(expected)
    assert counts.total == InnerTraffic(len(packets), sum(map(len, packets)))


@given(st.lists(st.tuples(st.sampled_from(list(Dscp.all())), st.integers(1, 9), st.integers(0, 9000))))
def test_a_group_counts_as_its_packets(groups: list[tuple[Dscp, int, int]]) -> None:
    counts = DscpCounters()
    for dscp, packets, size in groups:
        counts.add(dscp, packets, size)
    assert set(counts.by_class()) == {dscp for dscp, _, _ in groups}
    for dscp, carried in counts.by_class().items():
        mine = [(packets, size) for each, packets, size in groups if each is dscp]
        assert carried == InnerTraffic(sum(packets for packets, _ in mine), sum(size for _, size in mine))


def test_what_the_numbering_counted_goes_on_over_channels() -> None:
    ended = SNAPSHOT.ended()
    assert (ended.mode, ended.overtaken, ended.backlog) == ("plain", None, None)
    both = SNAPSHOT.following(ended)
    assert (both.mode, both.backlog) == ("replay-safe", SNAPSHOT.backlog)
    assert (both.probes_sent, both.probes_echoed, both.probes_lost) == (18, 14, 2)
    assert (both.gaps_used, both.suspected_replay_losses) == (8, 4)
