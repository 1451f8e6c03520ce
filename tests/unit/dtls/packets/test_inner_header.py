import struct
from collections.abc import Iterable
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, EF, TrafficClass
from qosctl.dtls.packets.inner_header import dscp_of, traffic_class_of

ALL_BYTES = range(256)


def ipv4(byte: int, payload: bytes = b"") -> bytes:
    header = struct.pack(">BBHHHBBH4s4s", 0x45, byte, 20 + len(payload), 1, 0x4000, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return header + payload


def ipv6(byte: int, payload: bytes = b"", flow_label: int = 0xFFFFF) -> bytes:
    word = 6 << 28 | byte << 20 | flow_label
    return struct.pack(">IHBB", word, len(payload), 17, 64) + IPv6Address("fd00::1").packed * 2 + payload


def misread(packets: Iterable[tuple[int, bytes]]) -> list[str]:
    """The traffic class and the packet, of those for which another class or another DSCP is found."""
    return [
        f"{byte:#04x} of {packet.hex()}"
        for byte, packet in packets
        if traffic_class_of(packet) is not TrafficClass.from_byte(byte)
        or dscp_of(packet) is not TrafficClass.from_byte(byte).dscp
    ]


@pytest.mark.parametrize("flow_label", [0, 0xFFFFF, 0x5A5A5])
def test_every_ipv6_traffic_class_is_read_whatever_the_flow_label(flow_label: int) -> None:
    assert misread((byte, ipv6(byte, b"data", flow_label)) for byte in ALL_BYTES) == []


def test_every_ipv4_traffic_class_is_read() -> None:
    assert misread((byte, ipv4(byte, b"data")) for byte in ALL_BYTES) == []


def test_ecn_does_not_change_the_dscp() -> None:
    assert {dscp_of(ipv4(46 << 2 | ecn)) for ecn in range(4)} == {EF}
    assert {dscp_of(ipv6(46 << 2 | ecn)) for ecn in range(4)} == {EF}


def test_ipv4_options_do_not_matter() -> None:
    packet = bytes([0x4F]) + ipv4(46 << 2)[1:] + bytes(40)
    assert dscp_of(packet) is EF


@pytest.mark.parametrize("version", [v for v in range(16) if v not in (4, 6)])
def test_another_version_is_class_0(version: int) -> None:
    packet = bytes([version << 4 | 0xF]) + b"\xff" * 59
    assert traffic_class_of(packet) is TrafficClass.from_byte(0)


@pytest.mark.parametrize(("whole", "least"), [(ipv4(184), 20), (ipv6(184), 40)])
def test_a_packet_shorter_than_its_header_is_class_0(whole: bytes, least: int) -> None:
    for size in range(least):
        assert dscp_of(whole[:size]) is DF
    assert dscp_of(whole[:least]) is EF


@given(st.binary(max_size=80))
def test_any_bytes_give_a_class_and_both_ways_agree(data: bytes) -> None:
    for form in (data, bytearray(data), memoryview(data)):
        assert dscp_of(form) is traffic_class_of(form).dscp


@given(st.integers(0, 255), st.sampled_from([ipv4, ipv6]), st.binary(max_size=40))
def test_nothing_behind_the_header_matters(byte: int, make: object, payload: bytes) -> None:
    packet = ipv4(byte, payload) if make is ipv4 else ipv6(byte, payload)
    assert traffic_class_of(packet) is TrafficClass.from_byte(byte)
