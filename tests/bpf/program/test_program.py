"""What the program does to a packet: each name is a sentence of the specification, the packets are in table.py.

The packet wanted afterwards is built anew and compared bit for bit; no checksum is trusted.
"""

from __future__ import annotations

import itertools

import pytest
from qosctl.bpf.abi import RING_WORDS
from qosctl.bpf.dscp import DF, EF, LE, Dscp, Ecn, TrafficClass
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps.policy import Policy, Rule
from qosctl.bpf.outcome import Outcome

from tests.bpf.program.table import DATA, DATAGRAM, ETHERNET_SHAPES, LEFT_ALONE, NUMBER, SHAPES, Left, Shape
from tests.lab.packets import frame, ipv4, ipv6, record, udp
from tests.lab.program import UNSPEC, Kernel, changed_sources, kernel

AF41 = Dscp.parse("AF41")


def with_dscp(shape: Shape, dscp: Dscp, ecn: Ecn = Ecn.NOT_ECT) -> bytes:
    return shape(TrafficClass.of(dscp, ecn).byte)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ecn", Ecn)
def test_stamps_preserving_ecn_and_all_else(program: Kernel, shape: Shape, ecn: Ecn) -> None:
    program.mark(NUMBER, EF)
    ran = program.run(with_dscp(shape, DF, ecn), ethernet=shape in ETHERNET_SHAPES.values())
    assert (ran.outcome, ran.verdict, ran.segments) == (Outcome.STAMPED, UNSPEC, 1)
    assert ran.packet == with_dscp(shape, EF, ecn)


@pytest.mark.parametrize("case", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_leaves_alone(program: Kernel, case: Left) -> None:
    program.mark(NUMBER, EF)
    ran = program.run(case.packet, ethernet=case.ethernet, priority=3)
    assert (ran.outcome, ran.verdict, ran.segments) == (case.outcome, UNSPEC, 1)
    assert ran.packet == case.packet
    assert ran.priority == 3


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(SHAPES["ipv4"], id="rewrites_tos_preserving_ecn"),
        pytest.param(SHAPES["ipv6"], id="rewrites_traffic_class_preserving_ecn_and_flow_label"),
    ],
)
def test_every_class_over_every_class(program: Kernel, shape: Shape) -> None:
    for wanted in Dscp.all():
        program.mark(NUMBER, wanted)
        for present, ecn in itertools.product((DF, LE, EF, Dscp.of(63), wanted), Ecn):
            ran = program.run(with_dscp(shape, present, ecn))
            assert ran.packet == with_dscp(shape, wanted, ecn)
            assert ran.outcome is (Outcome.UNCHANGED if present is wanted else Outcome.STAMPED)


@pytest.mark.parametrize("flow_label", [0, 0x00001, 0xF0000, 0xFFFFF])
def test_the_flow_label_stays(program: Kernel, flow_label: int) -> None:
    program.mark(NUMBER, EF)
    ran = program.run(frame(ipv6(DATAGRAM, flow_label=flow_label, traffic_class=0xFF)))
    assert ran.packet == frame(ipv6(DATAGRAM, flow_label=flow_label, traffic_class=0xBB))


def test_dscp_zero_is_noop(program: Kernel) -> None:
    program.mark(NUMBER, DF)
    ran = program.run(frame(ipv4(DATAGRAM)))
    assert (ran.outcome, ran.packet) == (Outcome.UNCHANGED, frame(ipv4(DATAGRAM)))


def test_dscp_zero_clears_what_the_socket_set(program: Kernel) -> None:
    program.mark(NUMBER, DF)
    ran = program.run(frame(ipv4(DATAGRAM, traffic_class=0xB9)))
    assert (ran.outcome, ran.packet) == (Outcome.STAMPED, frame(ipv4(DATAGRAM, traffic_class=0x01)))


def test_a_wrong_checksum_stays_as_wrong_as_it_was(program: Kernel) -> None:
    """Offloads and bugs of others are not ours to mend: the sum over the header does not change."""
    program.mark(NUMBER, EF)
    for checksum in (0x0000, 0x1234, 0xFFFE, 0xFFFF):
        before = ipv4(DATAGRAM, checksum=checksum)
        after = program.run(frame(before)).packet[14:]
        assert after[1] == EF.value << 2
        assert int.from_bytes(before[:20]) % 0xFFFF == int.from_bytes(after[:20]) % 0xFFFF


def test_checksums_at_the_edge_of_ones_complement(program: Kernel) -> None:
    """Sources that bring the checksum through its whole range, 0x0000 and 0xfffe included."""
    program.mark(NUMBER, EF)
    sent = frame(ipv4(DATAGRAM))
    missing = (int.from_bytes(sent[24:26]) - 0x10) % 0xFFFF  # brings the checksum to about 0x0010, then down through 0
    for step in range(0x20):
        identification = (0x1234 + missing + step) % 0xFFFF
        before = bytearray(ipv4(DATAGRAM, checksum=0))
        before[4:6] = identification.to_bytes(2)
        before[10:12] = (0xFFFF - int.from_bytes(before[:20]) % 0xFFFF).to_bytes(2)
        after = bytearray(before)
        after[1] = EF.value << 2
        after[10:12] = bytes(2)
        after[10:12] = ((0xFFFF - int.from_bytes(after[:20]) % 0xFFFF) % 0xFFFF).to_bytes(2)
        assert program.run(frame(bytes(before))).packet == frame(bytes(after)), hex(identification)


# Switch and policy.


def test_switched_off_leaves_everything_alone(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    program.state.control.passtos = False
    for packet in (frame(ipv4(DATAGRAM)), frame(ipv6(DATAGRAM)), bytes(14), frame(bytes(46), ethertype=0x0806)):
        ran = program.run(packet)
        assert (ran.outcome, ran.verdict, ran.packet) == (Outcome.OFF, UNSPEC, packet)


def test_the_switch_works_from_the_next_packet_on(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    seen = []
    for on in (True, False, True, False):
        program.state.control.passtos = on
        seen.append(program.run(frame(ipv4(DATAGRAM))).outcome)
    assert seen == [Outcome.STAMPED, Outcome.OFF] * 2


def test_policy_leave_leaves_alone_whatever_it_carries(program: Kernel) -> None:
    program.state.policy.write(Policy.identity().replaced({EF: Rule(None)}))
    program.mark(NUMBER, EF)
    for traffic_class in (0x00, 0xB8, 0x03):
        packet = frame(ipv4(DATAGRAM, traffic_class=traffic_class))
        ran = program.run(packet, priority=5)
        assert (ran.outcome, ran.packet, ran.priority) == (Outcome.POLICY_LEAVE, packet, 5)


def test_policy_maps_one_class_to_another(program: Kernel) -> None:
    program.state.policy.write(Policy.identity().replaced({EF: Rule(AF41)}))
    program.mark(NUMBER, EF)
    assert program.run(with_dscp(SHAPES["ipv6"], DF, Ecn.CE)).packet == with_dscp(SHAPES["ipv6"], AF41, Ecn.CE)


def test_policy_of_all_classes(program: Kernel) -> None:
    """A table with no rule like another: each class must find its own."""
    rules = {dscp: Rule(Dscp.of((dscp.value * 5 + 7) % 64)) for dscp in Dscp.all()} | {LE: Rule(None)}
    program.state.policy.write(Policy(rules))
    for inner, rule in rules.items():
        program.mark(NUMBER, inner)
        ran = program.run(SHAPES["ipv4"](0))
        if rule.outer is None:
            assert ran.outcome is Outcome.POLICY_LEAVE
        else:
            assert ran.packet == with_dscp(SHAPES["ipv4"], rule.outer)


def test_policy_sets_priority_where_it_says_so(program: Kernel) -> None:
    rules = {EF: Rule(EF, priority=6), AF41: Rule(AF41, priority=0), DF: Rule(DF)}
    program.state.policy.write(Policy.identity().replaced(rules))
    for inner, wanted in ((EF, 6), (AF41, 0), (DF, 3)):
        program.mark(NUMBER, inner)
        assert program.run(SHAPES["ipv4"](0), priority=3).priority == wanted
        assert program.run(with_dscp(SHAPES["ipv6"], inner), priority=3).priority == wanted, "already marked"


def test_priority_takes_all_32_bits(program: Kernel) -> None:
    program.state.policy.write(Policy.identity().replaced({EF: Rule(EF, priority=0xFFFF_0001)}))
    program.mark(NUMBER, EF)
    assert program.run(SHAPES["ipv4"](0)).priority == 0xFFFF_0001


def test_policy_changes_flip_the_bank_each_time(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    banks = []
    for wanted in (AF41, LE, EF, DF, AF41):
        program.state.policy.write(Policy.identity().replaced({EF: Rule(wanted)}))
        banks.append(program.state.control.policy_bank)
        assert program.run(SHAPES["ipv4"](0xFC)).packet == with_dscp(SHAPES["ipv4"], wanted)
    assert all(one != other for one, other in itertools.pairwise(banks))


# The ring.


@pytest.mark.parametrize("number", [1, RING_WORDS - 1, RING_WORDS, NUMBER, 0xFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF])
def test_numbers_from_end_to_end(program: Kernel, number: int) -> None:
    program.mark(number, EF)
    assert program.run(frame(ipv4(udp(record(number))))).outcome is Outcome.STAMPED


def test_record_zero_can_be_marked_with_any_class_but_df(program: Kernel) -> None:
    """An empty word means: never written. Record 0 in class DF looks the same, and stays as it is."""
    program.mark(0, EF)
    assert program.run(frame(ipv4(udp(record(0))))).outcome is Outcome.STAMPED
    program.mark(0, DF)
    assert program.run(frame(ipv4(udp(record(0))))).outcome is Outcome.NO_MARK


def test_a_mark_goes_stale_when_its_place_is_taken(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    program.mark(NUMBER + RING_WORDS, AF41)
    assert program.run(SHAPES["ipv4"](0)).outcome is Outcome.NO_MARK


def test_a_mark_can_be_used_again(program: Kernel) -> None:
    """A retransmission by the network layer, or a mirrored copy, gets the same mark."""
    program.mark(NUMBER, EF)
    assert [program.run(SHAPES["ipv4"](0)).outcome for _ in range(3)] == [Outcome.STAMPED] * 3


def test_a_word_of_nonsense_is_stale(program: Kernel) -> None:
    for word in (0xFFFF_FFFF_FFFF_FFFF, NUMBER, (NUMBER << 8 | 64) & 0xFFFF_FFFF_FFFF_FFFF, 46):
        program.ring.marks[NUMBER % RING_WORDS] = word
        assert program.run(SHAPES["ipv4"](0)).outcome is Outcome.NO_MARK


# Batches and counters.


@pytest.mark.parametrize("shape", [SHAPES["ipv4"], SHAPES["ipv6"]], ids=["ipv4", "ipv6"])
def test_a_batch_counts_as_its_segments(program: Kernel, shape: Shape) -> None:
    """A UDP GSO batch is one packet here, with one IP header; its first record speaks for all."""
    size = len(DATA)

    def batch(traffic_class: int) -> bytes:
        payload = udp(b"".join(record(NUMBER + n) for n in range(7)))
        return frame((ipv4 if shape is SHAPES["ipv4"] else ipv6)(payload, traffic_class=traffic_class))

    program.mark(NUMBER, EF)
    before = program.run(bytes(14)).counters.outer[EF]
    ran = program.run(batch(0), gso_size=size, gso_segs=7, wire_len=1234)
    assert (ran.outcome, ran.segments) == (Outcome.STAMPED, 7)
    assert ran.packet == batch(0xB8)
    assert ran.counters.outer[EF].packets - before.packets == 7
    assert ran.counters.outer[EF].bytes - before.bytes == 1234
    program.state.control.passtos = False
    assert program.run(batch(0), gso_size=size, gso_segs=7).segments == 7


def test_a_batch_with_a_shorter_last_record(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    packet = frame(ipv4(udp(record(NUMBER) + record(NUMBER + 1, b"short"))))
    assert program.run(packet, gso_size=len(DATA), gso_segs=2).outcome is Outcome.STAMPED


@pytest.mark.parametrize(
    ("gso_size", "outcome"),
    [
        (len(DATA) - 1, Outcome.PARTIAL_RECORD),
        (len(DATA) + 1, Outcome.MULTIPLE_RECORDS),
        (2 * len(DATA), Outcome.MULTIPLE_RECORDS),
    ],
)
def test_records_that_are_not_one_to_a_segment(program: Kernel, gso_size: int, outcome: Outcome) -> None:
    program.mark(NUMBER, EF)
    packet = frame(ipv4(udp(DATA + record(NUMBER + 1))))
    assert program.run(packet, gso_size=gso_size, gso_segs=2).outcome is outcome


def test_a_segment_size_beyond_the_datagram_cuts_nothing(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    assert program.run(SHAPES["ipv4"](0), gso_size=1400, gso_segs=1).outcome is Outcome.STAMPED


def test_bytes_are_those_on_the_wire(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    packet = SHAPES["ipv4_in_an_802_1q_tag"](0)
    before = program.run(bytes(14)).counters.outer[EF]
    for _ in range(3):
        after = program.run(packet).counters.outer[EF]
    assert (after.packets - before.packets, after.bytes - before.bytes) == (3, 3 * len(packet))


def test_unchanged_packets_count_in_their_class_and_left_ones_do_not(program: Kernel) -> None:
    program.mark(NUMBER, EF)
    before = program.run(bytes(14)).counters.outer[EF].packets
    program.run(with_dscp(SHAPES["ipv4"], EF))
    after = program.run(LEFT_ALONE["a_record_that_was_never_marked"].packet)
    assert after.counters.outer[EF].packets - before == 1


def test_flows_are_found_among_many(program: Kernel) -> None:
    """The key is the whole five-tuple, and IPv4 is not taken for IPv6."""
    mapped = frame(ipv6(DATAGRAM, source="::ffff:192.0.2.1", destination="::ffff:198.51.100.7"))
    program.mark(NUMBER, EF)
    assert program.run(SHAPES["ipv4"](0)).outcome is Outcome.STAMPED
    # Such addresses never appear on a wire (RFC 4291 section 2.5.5.2); should one, it is the same flow.
    assert program.run(mapped).outcome is Outcome.STAMPED


def test_a_header_that_the_kernel_will_not_make_writable_leaves_as_it_was() -> None:
    """Out of memory, in real life: here the helper is replaced by one that refuses."""
    with (
        changed_sources(before="#define bpf_skb_store_bytes(skb, at, from, size, flags) (-12)") as sources,
        kernel(BccLoader(sources)) as refused,
    ):
        refused.mark(NUMBER, EF)
        for shape in (SHAPES["ipv4"], SHAPES["ipv6"]):
            ran = refused.run(shape(0))
            assert (ran.outcome, ran.verdict, ran.packet) == (Outcome.WRITE_FAILED, UNSPEC, shape(0))
            assert ran.counters.outer[EF].packets == 0


def test_every_outcome_is_in_a_test() -> None:
    by_table = {case.outcome for case in LEFT_ALONE.values()}
    elsewhere = {Outcome.OFF, Outcome.POLICY_LEAVE, Outcome.UNCHANGED, Outcome.STAMPED, Outcome.WRITE_FAILED}
    of_other_programs = {Outcome.UNMATCHED, Outcome.AMBIGUOUS}  # test_follow.py
    assert by_table | elsewhere | of_other_programs == set(Outcome)
    assert len(by_table) + len(elsewhere) + len(of_other_programs) == len(Outcome)
