"""What --debug shows of packets, and what it must not."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.abi import RING_WORDS
from qosctl.bpf.dscp import EF, Dscp
from qosctl.dtls.anyconnect.frames import DATA_BYTE, CstpDecoder, encode_cstp, encode_dtls
from qosctl.dtls.anyconnect.protocol import ANYCONNECT
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.packet_log import LINES_PER_S, describe, traced
from qosctl.dtls.packets.batch import Batcher
from qosctl.dtls.packets.priority import by_class
from qosctl.dtls.record.keys import Cipher
from qosctl.dtls.record.protection import RecordOpener, RecordSealer
from qosctl.dtls.session.factories import PLAIN, Factories, plain_decoder
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.vpn.frames import FrameKind

KEY, IV = bytes(16), bytes(4)
FIRST = 1 << 48 | 16
SECRET = b"what nobody may see"


def ipv4(dscp: Dscp, protocol: int, payload: bytes = SECRET) -> bytes:
    return bytes([0x45, dscp.value << 2 | 1]) + bytes(7) + bytes([protocol]) + bytes(10) + payload


def ipv6(traffic_class: int, protocol: int, payload: bytes = SECRET) -> bytes:
    return (6 << 28 | traffic_class << 20).to_bytes(4) + bytes(2) + bytes([protocol]) + bytes(33) + payload


class Told:
    """What was written, by a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.factories: Factories = traced(self.lines.append, lambda: self.now, ANYCONNECT)

    def uplink(self, *, ring: bool = True) -> Batcher:
        words = memoryview(bytearray(8 * RING_WORDS)).cast("Q") if ring else None
        sealer = RecordSealer(Cipher.AES_128_GCM, KEY, IV)
        return self.factories.uplink(sealer, PlainNumbering(FIRST), words, data_byte=DATA_BYTE, batch_s=math.inf)

    def seal(self, packets: list[bytes], *, ring: bool = True) -> list[memoryview]:
        uplink = self.uplink(ring=ring)
        return [batch.data for dscp, members in by_class(packets) for batch in uplink.seal(dscp, members, 0.0)]


def test_each_packet_is_told_with_its_own_record_and_mark_whatever_batch_it_is_in() -> None:
    told = Told()
    told.seal([ipv4(EF, 17), ipv6(0b10_10, 6), ipv4(EF, 17), ipv4(EF, 1, b"")])
    assert told.lines == [
        "out IPv4 UDP EF ECT_1 39 bytes, record 1.16, mark EF",
        "out IPv4 UDP EF ECT_1 39 bytes, record 1.17, mark EF",
        "out IPv4 ICMP EF ECT_1 20 bytes, record 1.18, mark EF",
        "out IPv6 TCP 2 ECT_0 59 bytes, record 1.19, mark 2",
    ]


def test_a_packet_alone_is_told_too() -> None:
    told = Told()
    told.uplink().seal_one(ipv4(EF, 17), 0.0)
    assert told.lines == ["out IPv4 UDP EF ECT_1 39 bytes, record 1.16, mark EF"]


def test_without_a_ring_no_mark_is_claimed() -> None:
    told = Told()
    told.seal([ipv4(EF, 17)], ring=False)
    assert told.lines[0].endswith(", no mark")


def test_what_comes_is_told_with_its_record() -> None:
    told = Told()
    records = Told().seal([ipv4(EF, 50)])
    opener = told.factories.opener(Cipher.AES_128_GCM, KEY, IV)
    assert len(opener.open(records[0])) == 1
    assert opener.open(records[0]) == []  # a replay is no packet
    assert told.lines == ["in  IPv4 ESP EF ECT_1 39 bytes, record 1.16"]


def test_frames_that_are_no_packets_are_told_by_kind_and_length() -> None:
    told = Told()
    uplink = told.factories.uplink(
        RecordSealer(Cipher.AES_128_GCM, KEY, IV), PlainNumbering(FIRST), None, data_byte=DATA_BYTE
    )
    uplink.seal_control(encode_dtls(FrameKind.DPD_OUT, SECRET), EF, 0.0)
    told.factories.decoder(ANYCONNECT).feed(
        encode_cstp(FrameKind.DATA, ipv4(EF, 6)) + encode_cstp(FrameKind.DISCONN, SECRET)
    )
    assert told.lines == [
        "out DPD_OUT 19 bytes, record 1.16, no mark",
        "in  IPv4 TCP EF ECT_1 39 bytes, TLS",
        "in  DISCONN 19 bytes, TLS",
    ]


def test_nothing_of_a_packet_s_content_is_told() -> None:
    told = Told()
    told.seal([ipv4(EF, protocol) for protocol in range(256)])
    assert len(told.lines) == 256
    assert not [line for line in told.lines if "nobody" in line or SECRET.hex() in line]


def test_a_flood_is_counted_and_not_told() -> None:
    told = Told()
    told.seal([ipv4(EF, 17)] * (LINES_PER_S + 100))
    assert len(told.lines) == LINES_PER_S
    told.now = 1.0
    told.seal([ipv4(EF, 17)])
    assert told.lines[LINES_PER_S:] == [
        "100 more packets, not shown", "out IPv4 UDP EF ECT_1 39 bytes, record 1.16, mark EF"
    ]  # fmt: skip


@given(st.binary(max_size=80))
def test_whatever_it_is_there_are_words_for_it(packet: bytes) -> None:
    said = describe(packet)
    assert said.endswith(f"{len(packet)} bytes")
    assert said.isascii() and said.isprintable()


def test_those_who_do_not_look_pay_nothing() -> None:
    """The plain parts are the plain classes: nothing is asked per packet."""
    assert Factories(Batcher, RecordOpener, TlsControl, plain_decoder) == PLAIN
    assert type(PLAIN.decoder(ANYCONNECT)) is CstpDecoder
