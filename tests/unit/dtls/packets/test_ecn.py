"""RFC 6040 figure 4, bit by bit, for any packet."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import Ecn
from qosctl.dtls.packets.ecn import combine, ecn_of

N, E1, E0, CE = Ecn.NOT_ECT, Ecn.ECT_1, Ecn.ECT_0, Ecn.CE
TABLE: dict[Ecn, dict[Ecn, Ecn | None]] = {
    N: {N: N, E0: N, E1: N, CE: None},
    E0: {N: E0, E0: E0, E1: E1, CE: CE},
    E1: {N: E1, E0: E1, E1: E1, CE: CE},
    CE: {N: CE, E0: CE, E1: CE, CE: CE},
}


def checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(traffic_class: int, rest: bytes) -> bytes:
    header = bytes([0x45, traffic_class]) + rest[:8] + bytes(2) + rest[8:16]
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + b"payload"


def ipv6(traffic_class: int, rest: bytes) -> bytes:
    return bytes([0x60 | traffic_class >> 4, (traffic_class & 15) << 4 | rest[0] & 15]) + (rest * 3)[:38] + b"payload"


@given(st.integers(0, 255), st.sampled_from(Ecn), st.binary(min_size=16, max_size=16))
def test_ipv4_comes_out_as_the_table_says_with_a_right_checksum(traffic_class: int, outer: Ecn, rest: bytes) -> None:
    packet = ipv4(traffic_class, rest)
    wanted = TABLE[ecn_of(traffic_class)][outer]
    out = combine(packet, outer)
    if wanted is None:
        assert out is None
        return
    assert out is not None
    assert out[1] == traffic_class & 0xFC | wanted.value
    assert checksum(out[:20]) == 0
    assert out[:1] + out[2:10] + out[12:] == packet[:1] + packet[2:10] + packet[12:]


@given(st.integers(0, 255), st.sampled_from(Ecn), st.binary(min_size=16, max_size=16))
def test_ipv6_comes_out_as_the_table_says_and_nothing_else_changes(traffic_class: int, outer: Ecn, rest: bytes) -> None:
    packet = ipv6(traffic_class, rest)
    wanted = TABLE[ecn_of(traffic_class)][outer]
    assert combine(packet, outer) == (None if wanted is None else ipv6(traffic_class & 0xFC | wanted.value, rest))


@given(st.binary(max_size=64), st.sampled_from(Ecn))
def test_anything_is_taken_and_keeps_its_length(packet: bytes, outer: Ecn) -> None:
    out = combine(packet, outer)
    assert out is None or len(out) == len(packet)


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(19), b"\x60" + bytes(38), b"\x00" + bytes(60)])
def test_what_is_no_packet_is_handed_on(packet: bytes) -> None:
    assert combine(packet, CE) == packet
