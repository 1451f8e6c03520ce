"""The packets of the specification: shapes that are stamped, and packets that are left alone, by name.

A shape is a function of the traffic class, so the packet wanted afterwards can be built anew, its checksum summed up
from nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qosctl.bpf.abi import RING_WORDS
from qosctl.bpf.outcome import Outcome

from tests.lab.packets import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    CID,
    DESTINATION,
    DTLS_1_0,
    ESP,
    FRAGMENT,
    HANDSHAKE,
    HEARTBEAT,
    HOP_BY_HOP,
    ICMPV6,
    IPV4,
    IPV6,
    MORE_FRAGMENTS,
    NO_NEXT,
    PPPOE,
    QINQ,
    ROUTING,
    TCP,
    UDP,
    VLAN,
    extended,
    fragment_header,
    frame,
    ipv4,
    ipv6,
    pppoe,
    record,
    udp,
)

NUMBER = 0x0001_0000_0000_0105  # epoch 1
DATA = record(NUMBER)
DATAGRAM = udp(DATA)

Shape = Callable[[int], bytes]  # of the traffic class

ETHERNET_SHAPES: dict[str, Shape] = {
    "ipv4": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc)),
    "ipv6": lambda tc: frame(ipv6(DATAGRAM, traffic_class=tc)),
    "ipv4_with_one_option_word": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc, options=b"\x94\x04\0\0")),
    "ipv4_with_the_most_options": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc, options=b"\x01" * 40)),
    "ipv4_that_may_be_fragmented": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc, flags_and_offset=0)),
    "ipv4_with_the_reserved_flag": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc, flags_and_offset=0x8000)),
    "ipv4_with_link_padding": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc)) + bytes(7),
    "ipv4_in_an_802_1q_tag": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc), tags=[VLAN]),
    "ipv6_in_an_802_1q_tag": lambda tc: frame(ipv6(DATAGRAM, traffic_class=tc), tags=[VLAN]),
    "ipv4_in_qinq": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc), tags=[QINQ, VLAN]),
    "ipv6_in_qinq": lambda tc: frame(ipv6(DATAGRAM, traffic_class=tc), tags=[QINQ, VLAN]),
    "ipv4_in_two_802_1q_tags": lambda tc: frame(ipv4(DATAGRAM, traffic_class=tc), tags=[VLAN, VLAN]),
    "ipv4_in_pppoe": lambda tc: frame(pppoe(ipv4(DATAGRAM, traffic_class=tc)), ethertype=PPPOE),
    "ipv6_in_pppoe": lambda tc: frame(pppoe(ipv6(DATAGRAM, traffic_class=tc)), ethertype=PPPOE),
    "ipv4_in_pppoe_in_a_tag": lambda tc: frame(pppoe(ipv4(DATAGRAM, traffic_class=tc)), ethertype=PPPOE, tags=[VLAN]),
    "ipv6_behind_hop_by_hop_options": lambda tc: frame(
        ipv6(extended(DATAGRAM, [HOP_BY_HOP]), traffic_class=tc, next_header=HOP_BY_HOP)
    ),
    "ipv6_behind_a_routing_header": lambda tc: frame(
        ipv6(extended(DATAGRAM, [ROUTING], words=3), traffic_class=tc, next_header=ROUTING)
    ),
    "ipv6_behind_the_longest_options": lambda tc: frame(
        ipv6(extended(DATAGRAM, [DESTINATION], words=256), traffic_class=tc, next_header=DESTINATION)
    ),
    "ipv6_behind_six_extension_headers": lambda tc: frame(
        ipv6(extended(DATAGRAM, [HOP_BY_HOP, *[DESTINATION, ROUTING] * 2, DESTINATION]), traffic_class=tc, next_header=0)
    ),
    "an_empty_record": lambda tc: frame(ipv4(udp(record(NUMBER, b"")), traffic_class=tc)),
    "a_full_record": lambda tc: frame(ipv4(udp(record(NUMBER, bytes(1400))), traffic_class=tc)),
    "a_udp_datagram_shorter_than_its_ip_packet": lambda tc: frame(ipv4(DATAGRAM + b"behind udp", traffic_class=tc)),
}
RAW_SHAPES: dict[str, Shape] = {
    "raw_ipv4": lambda tc: ipv4(DATAGRAM, traffic_class=tc),
    "raw_ipv6": lambda tc: ipv6(DATAGRAM, traffic_class=tc),
    "raw_ipv4_with_options": lambda tc: ipv4(DATAGRAM, traffic_class=tc, options=b"\x94\x04\0\0"),
    "raw_ipv6_with_extensions": lambda tc: ipv6(
        extended(DATAGRAM, [HOP_BY_HOP, DESTINATION]), traffic_class=tc, next_header=HOP_BY_HOP
    ),
}
SHAPES = {**ETHERNET_SHAPES, **RAW_SHAPES}


@dataclass(frozen=True)
class Left:
    """A packet that leaves as it came, and why."""

    packet: bytes
    outcome: Outcome
    ethernet: bool = True


def fragment4(offset: int, *, more: bool, payload: bytes = DATAGRAM) -> bytes:
    return frame(ipv4(payload, flags_and_offset=(MORE_FRAGMENTS if more else 0) | offset))


def fragment6(offset: int, *, more: bool, payload: bytes = DATAGRAM) -> bytes:
    return frame(ipv6(fragment_header(UDP, offset=offset, more=more) + payload, next_header=FRAGMENT))


def seven_extensions(last: int) -> bytes:
    return frame(ipv6(extended(DATAGRAM, [HOP_BY_HOP, *[DESTINATION] * 6], last=last), next_header=HOP_BY_HOP))


LEFT_ALONE: dict[str, Left] = {
    # Not IP, or not to be found.
    "arp": Left(frame(bytes(46), ethertype=0x0806), Outcome.NOT_IP),
    "an_802_3_length_instead_of_a_type": Left(frame(ipv4(DATAGRAM), ethertype=0x0040), Outcome.NOT_IP),
    "three_tags": Left(frame(ipv4(DATAGRAM), tags=[QINQ, VLAN, VLAN]), Outcome.NOT_IP),
    "mpls": Left(frame(b"\0\0\x11\x40" + ipv4(DATAGRAM), ethertype=0x8847), Outcome.NOT_IP),
    "pppoe_link_control": Left(frame(pppoe(ipv4(DATAGRAM), protocol=0xC021), ethertype=PPPOE), Outcome.NOT_IP),
    "pppoe_discovery": Left(frame(pppoe(ipv4(DATAGRAM)), ethertype=0x8863), Outcome.NOT_IP),
    "ipv6_where_the_ethertype_says_ipv4": Left(frame(ipv6(DATAGRAM), ethertype=IPV4), Outcome.NOT_IP),
    "ipv4_where_the_ethertype_says_ipv6": Left(frame(ipv4(DATAGRAM + bytes(20)), ethertype=IPV6), Outcome.NOT_IP),
    "raw_neither_4_nor_6": Left(ipv4(DATAGRAM, version=5), Outcome.NOT_IP, ethernet=False),
    "an_ethernet_frame_on_a_raw_device": Left(frame(ipv4(DATAGRAM)), Outcome.NOT_IP, ethernet=False),
    # Not UDP.
    "tcp": Left(frame(ipv4(DATAGRAM, protocol=TCP)), Outcome.NOT_UDP),
    "tcp6": Left(frame(ipv6(DATAGRAM, next_header=TCP)), Outcome.NOT_UDP),
    "esp": Left(frame(ipv4(DATAGRAM, protocol=ESP)), Outcome.NOT_UDP),
    "esp6": Left(frame(ipv6(DATAGRAM, next_header=ESP)), Outcome.NOT_UDP),
    "udp_behind_an_authentication_header": Left(frame(ipv6(extended(DATAGRAM, [51]), next_header=51)), Outcome.NOT_UDP),
    "icmp6_behind_hop_by_hop_options": Left(
        frame(ipv6(extended(DATAGRAM, [HOP_BY_HOP], last=ICMPV6), next_header=HOP_BY_HOP)), Outcome.NOT_UDP
    ),
    "no_next_header": Left(frame(ipv6(b"", next_header=NO_NEXT)), Outcome.NOT_UDP),
    "a_tcp_fragment": Left(frame(ipv4(DATAGRAM, protocol=TCP, flags_and_offset=MORE_FRAGMENTS)), Outcome.NOT_UDP),
    # Fragments: the first one holds the record's number, the others cannot; all stay alike.
    "the_first_fragment": Left(fragment4(0, more=True), Outcome.FRAGMENT),
    "a_middle_fragment": Left(fragment4(185, more=True), Outcome.FRAGMENT),
    "the_last_fragment": Left(fragment4(370, more=False), Outcome.FRAGMENT),
    "the_first_fragment_of_ipv6": Left(fragment6(0, more=True), Outcome.FRAGMENT),
    "a_middle_fragment_of_ipv6": Left(fragment6(185, more=True), Outcome.FRAGMENT),
    "the_last_fragment_of_ipv6": Left(fragment6(370, more=False), Outcome.FRAGMENT),
    "an_atomic_fragment_of_ipv6": Left(fragment6(0, more=False), Outcome.FRAGMENT),
    "a_fragment_behind_hop_by_hop_options": Left(
        frame(ipv6(extended(DATAGRAM, [HOP_BY_HOP, FRAGMENT]), next_header=HOP_BY_HOP)), Outcome.FRAGMENT
    ),
    # More extension headers than are followed.
    "seven_extension_headers": Left(seven_extensions(UDP), Outcome.IPV6_EXT_HEADERS),
    "seven_extension_headers_before_tcp": Left(seven_extensions(TCP), Outcome.IPV6_EXT_HEADERS),
    # Shorter than they say.
    # (In a tag where a test run itself would refuse what its ethertype promises and does not hold.)
    "an_ethernet_header_and_a_tag_and_nothing": Left(frame(b"", tags=[VLAN], ethertype=IPV4), Outcome.TRUNCATED),
    "a_tag_cut_off": Left(frame(b"\x20", ethertype=VLAN), Outcome.TRUNCATED),
    "a_pppoe_header_cut_off": Left(frame(pppoe(ipv4(DATAGRAM))[:7], ethertype=PPPOE), Outcome.TRUNCATED),
    "an_ipv4_header_cut_off": Left(frame(ipv4(DATAGRAM)[:19], tags=[VLAN]), Outcome.TRUNCATED),
    "an_ipv6_header_cut_off": Left(frame(ipv6(DATAGRAM)[:39], tags=[VLAN]), Outcome.TRUNCATED),
    "a_raw_ipv4_header_cut_off": Left(ipv4(DATAGRAM)[:19], Outcome.TRUNCATED, ethernet=False),
    "an_extension_header_cut_off": Left(
        frame(ipv6(extended(b"", [HOP_BY_HOP]), next_header=HOP_BY_HOP)[:41]), Outcome.TRUNCATED
    ),
    "an_extension_header_that_reaches_past_the_end": Left(
        frame(ipv6(bytes([UDP, 255]) + bytes(6) + DATAGRAM, next_header=HOP_BY_HOP)), Outcome.TRUNCATED
    ),
    "a_udp_header_cut_off": Left(frame(ipv4(DATAGRAM)[:27]), Outcome.TRUNCATED),
    "a_datagram_cut_off": Left(frame(ipv4(DATAGRAM))[:-1], Outcome.TRUNCATED),
    "a_datagram_cut_off_on_ipv6": Left(frame(ipv6(DATAGRAM))[:-1], Outcome.TRUNCATED),
    # Lengths that lie.
    "an_ipv4_header_length_below_five_words": Left(frame(ipv4(DATAGRAM, header_length=4)), Outcome.TRUNCATED),
    "an_ipv4_total_length_of_zero": Left(frame(ipv4(DATAGRAM, total_length=0)), Outcome.TRUNCATED),
    "an_ipv4_total_length_within_the_datagram": Left(
        frame(ipv4(DATAGRAM, total_length=len(DATAGRAM) + 19)), Outcome.TRUNCATED
    ),
    "an_ipv4_total_length_past_the_end": Left(frame(ipv4(DATAGRAM, total_length=1400)), Outcome.TRUNCATED),
    "an_ipv6_payload_length_of_zero": Left(frame(ipv6(DATAGRAM, payload_length=0)), Outcome.TRUNCATED),
    "an_ipv6_payload_length_past_the_end": Left(frame(ipv6(DATAGRAM, payload_length=len(DATAGRAM) + 1)), Outcome.TRUNCATED),
    "a_udp_length_below_its_header": Left(frame(ipv4(udp(DATA, length=7))), Outcome.TRUNCATED),
    "a_udp_length_past_the_ip_packet": Left(frame(ipv4(udp(DATA, length=len(DATAGRAM) + 1))), Outcome.TRUNCATED),
    "a_pppoe_length_within_the_ip_packet": Left(
        frame(pppoe(ipv4(DATAGRAM), length=40), ethertype=PPPOE), Outcome.TRUNCATED
    ),
    "a_pppoe_length_past_the_end": Left(frame(pppoe(ipv4(DATAGRAM), length=400), ethertype=PPPOE), Outcome.TRUNCATED),
    # Not a tunnel of ours.
    "another_source_port": Left(frame(ipv4(udp(DATA, source=40001))), Outcome.NO_FLOW),
    "another_destination_port": Left(frame(ipv4(udp(DATA, destination=4444))), Outcome.NO_FLOW),
    "another_source": Left(frame(ipv4(DATAGRAM, source="192.0.2.2")), Outcome.NO_FLOW),
    "another_destination": Left(frame(ipv4(DATAGRAM, destination="198.51.100.8")), Outcome.NO_FLOW),
    "another_destination_of_ipv6": Left(frame(ipv6(DATAGRAM, destination="2001:db8:ffff::8")), Outcome.NO_FLOW),
    "the_way_back": Left(
        frame(ipv4(udp(DATA, source=4443, destination=40000), source="198.51.100.7", destination="192.0.2.1")),
        Outcome.NO_FLOW,
    ),
    "dns": Left(frame(ipv4(udp(b"query", destination=53))), Outcome.NO_FLOW),
    "a_lying_length_outside_our_tunnels": Left(frame(ipv4(udp(DATA, source=1, length=7))), Outcome.NO_FLOW),
    # In our tunnel, but not a record.
    "an_empty_datagram": Left(frame(ipv4(udp(b""))), Outcome.NOT_DTLS),
    "half_a_record_header": Left(frame(ipv4(udp(DATA[:12]))), Outcome.NOT_DTLS),
    "noise": Left(frame(ipv4(udp(b"\xff" * 64))), Outcome.NOT_DTLS),
    "stun": Left(frame(ipv4(udp(b"\0\x01\0\0\x21\x12\xa4\x42" + bytes(12)))), Outcome.NOT_DTLS),
    "a_record_of_dtls_1_0": Left(frame(ipv4(udp(record(NUMBER, version=DTLS_1_0)))), Outcome.NOT_DTLS),
    "a_tls_record": Left(frame(ipv4(udp(record(NUMBER, version=0x0303)))), Outcome.NOT_DTLS),
    # Records whose loss or delay would hurt the tunnel itself stay as the socket sent them.
    "leaves_handshake_alone": Left(frame(ipv4(udp(record(NUMBER, kind=HANDSHAKE)))), Outcome.NOT_DATA),
    "leaves_a_client_hello_of_dtls_1_0_alone": Left(
        frame(ipv4(udp(record(NUMBER, kind=HANDSHAKE, version=DTLS_1_0)))), Outcome.NOT_DATA
    ),
    "leaves_alert_alone": Left(frame(ipv4(udp(record(NUMBER, kind=ALERT)))), Outcome.NOT_DATA),
    "leaves_change_cipher_spec_alone": Left(frame(ipv4(udp(record(NUMBER, kind=CHANGE_CIPHER_SPEC)))), Outcome.NOT_DATA),
    "leaves_heartbeat_alone": Left(frame(ipv4(udp(record(NUMBER, kind=HEARTBEAT)))), Outcome.NOT_DATA),
    "a_record_with_a_connection_id": Left(frame(ipv4(udp(record(NUMBER, kind=CID)))), Outcome.CID_OR_DTLS13),
    "a_dtls_1_3_record": Left(frame(ipv4(udp(b"\x2f" + bytes(40)))), Outcome.CID_OR_DTLS13),
    "a_dtls_1_3_record_with_a_connection_id": Left(frame(ipv4(udp(b"\x3d" + bytes(40)))), Outcome.CID_OR_DTLS13),
    "a_record_split_over_datagrams": Left(frame(ipv4(udp(record(NUMBER, bytes(40))[:-1]))), Outcome.PARTIAL_RECORD),
    "a_record_longer_than_any_datagram": Left(frame(ipv4(udp(record(NUMBER, length=0xFFFF)))), Outcome.PARTIAL_RECORD),
    "two_records_in_a_datagram": Left(frame(ipv4(udp(DATA + record(NUMBER + 1)))), Outcome.MULTIPLE_RECORDS),
    "a_record_and_a_stray_byte": Left(frame(ipv4(udp(DATA + b"\0"))), Outcome.MULTIPLE_RECORDS),
    # Ours, a record, but no mark for it.
    "a_record_that_was_never_marked": Left(frame(ipv4(udp(record(NUMBER + 1)))), Outcome.NO_MARK),
    "a_record_one_turn_of_the_ring_later": Left(frame(ipv4(udp(record(NUMBER + RING_WORDS)))), Outcome.NO_MARK),
    "a_record_of_the_next_epoch": Left(frame(ipv4(udp(record(NUMBER + (1 << 48))))), Outcome.NO_MARK),
    "record_zero_unmarked": Left(frame(ipv4(udp(record(0)))), Outcome.NO_MARK),
}
