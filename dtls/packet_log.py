"""A line for each packet and record that passes, for `--debug`: parts that tell and otherwise do what the plain ones do.

    out IPv4 UDP EF ECT_0 188 bytes, record 1.4711, mark EF
    in  IPv6 TCP DF NOT_ECT 1280 bytes, record 1.93
    out DPD_OUT 8 bytes, record 1.4712, mark EF
    in  IPv4 ICMP CS6 NOT_ECT 84 bytes, TLS

The DSCP and ECN are those of the inner header, the length that of the inner packet, the record number epoch.number. The
mark is what the kernel is asked to put on the outer packet: policy and switch decide there (qosctl policy, qosctl passtos).
No address, no port, nothing of what a packet carries. So many lines a second and no more; the rest is counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES
from qosctl.dtls.numbering.plain import Numbering
from qosctl.dtls.packets.batch import Batch, Batcher
from qosctl.dtls.packets.inner_header import traffic_class_of
from qosctl.dtls.record.keys import Cipher
from qosctl.dtls.record.protection import APPLICATION_DATA, OpenedRecord, RecordOpener, RecordSealer
from qosctl.dtls.session.factories import Factories
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.vpn.frames import Frame, FrameKind
from qosctl.dtls.vpn.protocol import VpnProtocol

LINES_PER_S = 500
_PROTOCOLS = {0: "HOPOPT", 1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 132: "SCTP"}
_NUMBER = slice(3, 11)  # epoch and sequence number in the header of a record (RFC 6347 section 4.1)
_EPOCH_SHIFT = 48

Write = Callable[[str], None]
Decode = Callable[[bytes], Frame | None]


def traced(write: Write, clock: Callable[[], float], protocol: VpnProtocol) -> Factories:
    """Return parts that give `write` a line for each packet; `clock` counts seconds."""
    write = _Bounded(write, clock)
    return Factories(
        uplink=functools.partial(_Batcher, write, protocol.decode_record),
        opener=functools.partial(_Opener, write, protocol.decode_record),
        control=functools.partial(_TlsControl, write),
        decoder=functools.partial(_Decoder, write),
    )


def describe(packet: bytes | memoryview) -> str:
    """Say what an inner packet is, by its fixed header alone. Total."""
    size, version = len(packet), packet[0] >> 4 if len(packet) else 0
    if version == 4 and size >= IPV4_HEADER_BYTES:
        protocol = packet[9]
    elif version == 6 and size >= IPV6_HEADER_BYTES:
        protocol = packet[6]
    else:
        return f"no IP, {size} bytes"
    fields = traffic_class_of(packet)
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    return f"IPv{version} {name} {fields.dscp} {fields.ecn.name} {size} bytes"


class _Batcher(Batcher):
    def __init__(
        self,
        write: Write,
        decode: Decode,
        sealer: RecordSealer,
        numbering: Numbering,
        marks: memoryview | None,
        **more: Any,
    ) -> None:
        super().__init__(sealer, numbering, marks, **more)
        self._write = write
        self._decode = decode
        self._marks_somewhere = marks is not None

    def mark_in(self, marks: memoryview) -> None:
        super().mark_in(marks)
        self._marks_somewhere = True

    def seal_again(self, dscp: Dscp, packets: Sequence[bytes | memoryview], now: float) -> list[Batch]:
        batches = super().seal_again(dscp, packets, now)
        told = iter(packets)
        for batch in batches:
            for index in range(batch.count):
                record = batch.data[index * batch.segment_size :]
                self._write(f"out {describe(next(told))}, {_record(record)}, {self._mark(dscp)}")
        return batches

    def seal_one(self, packet: bytes, now: float) -> Batch:
        batch = super().seal_one(packet, now)
        self._write(f"out {describe(packet)}, {_record(batch.data)}, {self._mark(batch.dscp)}")
        return batch

    def seal_control(self, frame: bytes, dscp: Dscp, now: float) -> Batch:
        batch = super().seal_control(frame, dscp, now)
        self._write(f"out {_frame(self._decode(frame))}, {_record(batch.data)}, {self._mark(dscp)}")
        return batch

    def seal_alert(self, alert: bytes, now: float) -> Batch:
        batch = super().seal_alert(alert, now)
        self._write(f"out alert, {_record(batch.data)}, no mark")
        return batch

    def _mark(self, dscp: Dscp) -> str:
        return f"mark {dscp}" if self._marks_somewhere else "no mark"


class _Opener(RecordOpener):
    __slots__ = ("_decode", "_write")

    def __init__(self, write: Write, decode: Decode, cipher: Cipher, key: bytes, iv: bytes) -> None:
        super().__init__(cipher, key, iv)
        self._write = write
        self._decode = decode

    def open(self, datagram: memoryview | bytes) -> list[OpenedRecord]:
        records = super().open(datagram)
        for number, content_type, plaintext in records:
            frame = content_type == APPLICATION_DATA
            what = _frame(self._decode(plaintext)) if frame else f"record of type {content_type}"
            self._write(f"in  {what}, {_numbered(number)}")
        return records


class _TlsControl(TlsControl):
    def __init__(self, write: Write, **named: Any) -> None:
        super().__init__(**named)
        self._write = write

    def send_packet(self, packet: bytes) -> None:
        self._write(f"out {describe(packet)}, TLS")
        super().send_packet(packet)


class _Decoder:
    def __init__(self, write: Write, protocol: VpnProtocol) -> None:
        self._write = write
        self._decoder = protocol.stream_decoder()

    def feed(self, data: bytes) -> list[Frame]:
        frames = self._decoder.feed(data)
        for frame in frames:
            self._write(f"in  {_frame(frame)}, TLS")
        return frames


class _Bounded:
    """Lets LINES_PER_S lines through each second, and says of how many it did not."""

    def __init__(self, write: Write, clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._second = clock()
        self._lines = 0

    def __call__(self, line: str) -> None:
        now = self._clock()
        if now >= self._second + 1.0:
            if self._lines > LINES_PER_S:
                self._write(f"{self._lines - LINES_PER_S} more packets, not shown")
            self._second, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_PER_S:
            self._write(line)


def _frame(frame: Frame | None) -> str:
    if frame is None:
        return "unknown frame"
    return describe(frame.payload) if frame.kind is FrameKind.DATA else f"{frame.kind.name} {len(frame.payload)} bytes"


def _record(record: memoryview) -> str:
    return _numbered(int.from_bytes(record[_NUMBER]))


def _numbered(number: int) -> str:
    return f"record {number >> _EPOCH_SHIFT}.{number & ((1 << _EPOCH_SHIFT) - 1)}"
