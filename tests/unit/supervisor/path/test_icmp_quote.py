"""Quotes and verdicts, without a network."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import Dscp, Ecn, TrafficClass
from qosctl.supervisor.path.icmp_quote import Complaint, parse_icmp4, parse_icmp6
from qosctl.supervisor.path.verdict import Pattern, pattern

from tests.lab import packets


def icmp4(kind: int, code: int, quoted: bytes) -> bytes:
    return packets.ipv4(struct.pack("!BBHI", kind, code, 0, 0) + quoted, protocol=1)


def icmp6(kind: int, code: int, quoted: bytes) -> bytes:
    return struct.pack("!BBHI", kind, code, 0, 0) + quoted


def probe(byte: int, family: int, options: bytes = b"") -> bytes:
    udp = packets.udp(bytes(21), source=5000, destination=443)
    return packets.ipv4(udp, traffic_class=byte, options=options) if family == 4 else packets.ipv6(udp, traffic_class=byte)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_complaint_or_none(data: bytes) -> None:
    for parse in (parse_icmp4, parse_icmp6):
        assert parse(data) is None or isinstance(parse(data), Complaint)


@given(st.data())
def test_a_cut_complaint_is_none_or_the_same(data: st.DataObject) -> None:
    whole = icmp4(11, 0, probe(0xB8, 4))
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    assert parse_icmp4(cut) in (None, parse_icmp4(whole))


def test_the_byte_that_arrived_is_read() -> None:
    for byte in range(256):
        four, six = parse_icmp4(icmp4(11, 0, probe(byte, 4, b"\1" * 4))), parse_icmp6(icmp6(3, 0, probe(byte, 6)))
        for complaint in (four, six):
            assert complaint is not None
            assert complaint.quote.traffic_class is TrafficClass.from_byte(byte)
            assert (complaint.quote.source_port, complaint.quote.destination_port) == (5000, 443)
            assert complaint.quote.payload_bytes == 21
            assert complaint.expired


def test_only_the_port_that_is_closed_is_the_host_itself() -> None:
    for code, closed in ((1, False), (3, True), (13, False)):
        complaint = parse_icmp4(icmp4(3, code, probe(0, 4)))
        assert complaint is not None
        assert (complaint.expired, complaint.port_closed) == (False, closed)


@pytest.mark.parametrize(
    ("old", "new", "habit"),
    [
        ("EF", "EF", Pattern.KEPT),
        ("EF", "DF", Pattern.BLEACHED),
        ("EF", "6", Pattern.PRECEDENCE_BLEACHED),
        ("AF41", "2", Pattern.PRECEDENCE_BLEACHED),
        ("EF", "AF13", Pattern.PRECEDENCE_REMARKED),
        ("EF", "CS5", Pattern.REMARKED),
        ("CS5", "DF", Pattern.BLEACHED),
        ("CS5", "CS1", Pattern.REMARKED),
        ("DF", "LE", Pattern.REMARKED),
    ],
)
def test_habits_have_names(old: str, new: str, habit: Pattern) -> None:
    assert pattern(Dscp.parse(old), Dscp.parse(new)) is habit


def test_ecn_plays_no_part_in_the_habit() -> None:
    for ecn in Ecn:
        assert pattern(TrafficClass.of(Dscp.parse("EF"), ecn).dscp, Dscp.parse("EF")) is Pattern.KEPT
