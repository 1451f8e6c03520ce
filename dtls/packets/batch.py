"""Inner packets in, marked and sealed batches out: everything that happens to a packet between TUN and UDP.

    packets of a class --> numbers --> marks in the ring --> records in one buffer --> batches

A batch is what one UDP_SEGMENT send takes: records of one length and one class, the last one shorter perhaps. The
kernel sees it as one packet and stamps it once, by its first record; each record gets its mark all the same, since a
device without segmentation offload, or a batch sent in pieces, shows the kernel the others too.

Order within a class is the order of the packets; which class goes first is for `priority`. A mark is stored before `seal`
returns, so before the record can be sent. No I/O and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qosctl.bpf.abi import RING_WORDS, mark_word, write_marks
from qosctl.bpf.dscp import DF, Dscp
from qosctl.dtls.numbering.plain import Numbering
from qosctl.dtls.packets.counters_by_dscp import DscpCounters
from qosctl.dtls.record.protection import ALERT, APPLICATION_DATA, RecordSealer

MAX_BATCH_RECORDS = 64
"""UDP_MAX_SEGMENTS of linux/udp.h, in the kernels that allow least."""
MAX_BATCH_BYTES = 65_000
"""Just below what one UDP datagram holds (65,535 with IP and UDP headers), IPv6 extension headers allowed for."""
BATCH_S = 0.001
"""How long a batch may take to leave at the rate we are sending. Most qdiscs send a batch in one piece: 64 records at
20 Mbit/s would keep an urgent packet waiting for 25 ms. The kernel sizes TCP's batches by the same rule."""
RATE_WINDOW_S = 0.05
START_BYTES_PER_S = 1_250_000.0
"""The rate we assume before there is one: 10 Mbit/s, which is single records."""


@dataclass(slots=True)
class Batch:
    """Sealed records for one send, all of one class.

    A sender that gets rid of only some of them moves `data` and `count` on, so the batch is always what is left.
    """

    data: memoryview
    """The records back to back; it lies in the uplink's buffer and is valid until the next `seal`."""
    segment_size: int
    """Bytes of each record; the last may have fewer."""
    count: int
    """Records in `data`, 1 to 64."""
    dscp: Dscp
    number: int = 0
    """The record number of the first record; 0 for what is not ours to number, as the handshake's datagrams."""


class Batcher:
    """Seals what leaves; one per DTLS session.

    `marks` is the ring of this flow as a memoryview of RING_WORDS 64-bit words (format "Q"), or None where nothing
    stamps. `data_byte` stands before the packet in a record. `batch_s` bounds the length of a batch in seconds at the rate
    of the moment; math.inf gives batches as long as they can be. `sent` counts the packets that `seal` is given, by class.
    """

    def __init__(  # noqa: PLR0913  (what it is made of)
        self,
        sealer: RecordSealer,
        numbering: Numbering,
        marks: memoryview | None,
        *,
        data_byte: int,
        batch_s: float = BATCH_S,
        sent: DscpCounters | None = None,
    ) -> None:
        if marks is not None and (marks.format != "Q" or len(marks) != RING_WORDS):
            raise ValueError(f"the ring is {RING_WORDS} words of format 'Q'")
        self._sealer = sealer
        self._numbering = numbering
        self._data_prefix = bytes([data_byte])
        self._overhead = len(self._data_prefix) + sealer.overhead
        # Without a ring the marks go where nobody looks: one path to test instead of two.
        self._marks = memoryview(bytearray(8 * RING_WORDS)).cast("Q") if marks is None else marks
        self._sent = DscpCounters() if sent is None else sent
        self._batch_s = batch_s
        self._batch_bytes = min(batch_s * START_BYTES_PER_S, MAX_BATCH_BYTES)
        self._window_bytes = 0
        self._window_began = self._window_ends = -math.inf
        self._buffer = memoryview(bytearray(MAX_BATCH_BYTES))

    def mark_in(self, marks: memoryview) -> None:
        """Store marks in this ring from now on: it has come later than the first packet."""
        self._marks = marks

    def seal(self, dscp: Dscp, packets: Sequence[bytes | memoryview], now: float) -> list[Batch]:
        """Seal inner packets of one class (IP, without any header of a device) and return the batches, in their order.

        `now` is a monotonic time in seconds, for the numbers and the length of batches. The batches lie in a buffer
        that the next call overwrites: send them all first. NumbersExhaustedError when the epoch is used up;
        ValueError for a packet that no record holds (16,383 bytes do).
        """
        self._sent.add(dscp, len(packets), sum(map(len, packets)))
        return self.seal_again(dscp, packets, now)

    def seal_again(self, dscp: Dscp, packets: Sequence[bytes | memoryview], now: float) -> list[Batch]:
        """`seal` for packets that have been sealed before, with numbers that are not good any more."""
        size = sum(map(len, packets))
        room = size + len(packets) * self._overhead
        if room > len(self._buffer):
            self._buffer = memoryview(bytearray(room))
        if now >= self._window_ends:
            self._measure_rate(now)
        self._window_bytes += room
        numbers = self._numbering.take(dscp, len(packets), now)
        write_marks(self._marks, numbers, dscp)
        self._sealer.seal_run(self._buffer, numbers, APPLICATION_DATA, self._data_prefix, packets, 0)
        return self._cut(dscp, packets, numbers)

    def seal_one(self, packet: bytes, now: float) -> Batch:
        """Seal one inner packet, of whatever class, as `seal` does, but for less: a call's packets come one by one."""
        buffer, dscp = self._buffer, self._sent.count(packet).dscp
        (number,) = self._numbering.take(dscp, 1, now)
        self._marks[number % RING_WORDS] = mark_word(number, dscp)
        size = self._sealer.seal_into(buffer, number, APPLICATION_DATA, self._data_prefix + packet)
        if now >= self._window_ends:
            self._measure_rate(now)
        self._window_bytes += size
        return Batch(buffer[:size], size, 1, dscp, number)

    @property
    def good_until(self) -> float:
        """Until when what was sealed last may be sent; inf mostly. Later, its numbers may be too low: seal it again."""
        return self._numbering.good_until

    def _cut(self, dscp: Dscp, packets: Sequence[bytes | memoryview], numbers: Sequence[int]) -> list[Batch]:
        """Return the batches that the records of `packets`, which lie back to back in the buffer, make."""
        buffer, limit, overhead = self._buffer, self._batch_bytes, self._overhead
        total, segment = len(packets), len(packets[0]) + overhead
        if total == 1:
            return [Batch(buffer[:segment], segment, 1, dscp, numbers[0])]
        if len(set(map(len, packets))) == 1:
            each = min(MAX_BATCH_RECORDS, max(1, int(limit // segment)))
            ends = [*range(each, total, each), total]
            return [
                Batch(buffer[start * segment : end * segment], segment, end - start, dscp, numbers[start])
                for start, end in zip([0, *ends], ends, strict=False)
            ]
        batches: list[Batch] = []
        offset = start = count = first = 0  # from `start` on: the batch under way
        for at, packet in enumerate(packets):
            size = len(packet) + overhead
            end = offset + size
            if count and (size > segment or count == MAX_BATCH_RECORDS or end - start > limit):
                batches.append(Batch(buffer[start:offset], segment, count, dscp, numbers[first]))
                count = 0
            if not count:
                start, segment, first = offset, size, at
            count += 1
            offset = end
            if size < segment:  # a shorter record can only be the last of its batch
                batches.append(Batch(buffer[start:offset], segment, count, dscp, numbers[first]))
                count = 0
        if count:
            batches.append(Batch(buffer[start:offset], segment, count, dscp, numbers[first]))
        return batches

    def _measure_rate(self, now: float) -> None:
        """Size the batches to come by the rate of the window that ends, and begin another."""
        rate = self._window_bytes / (now - self._window_began) if self._window_bytes else START_BYTES_PER_S
        self._batch_bytes = min(self._batch_s * rate, MAX_BATCH_BYTES)
        self._window_bytes = 0
        self._window_began, self._window_ends = now, now + RATE_WINDOW_S

    def seal_control(self, frame: bytes, dscp: Dscp, now: float) -> Batch:
        """Seal a frame that is no inner packet (DPD, keepalive; type byte first) and mark it as of class `dscp`.

        The batch has memory of its own. It may be sent before or after batches of `seal`, in any class.
        """
        batch = self._seal_alone(APPLICATION_DATA, frame, dscp, now)
        write_marks(self._marks, (batch.number,), dscp)
        return batch

    def seal_alert(self, alert: bytes, now: float) -> Batch:
        """Seal a TLS alert (level, description). No record but application data is ever marked."""
        return self._seal_alone(ALERT, alert, DF, now)

    def _seal_alone(self, content_type: int, plaintext: bytes, dscp: Dscp, now: float) -> Batch:
        (number,) = self._numbering.take(dscp, 1, now)
        data = memoryview(bytearray(len(plaintext) + self._sealer.overhead))
        size = self._sealer.seal_into(data, number, content_type, plaintext)
        return Batch(data, size, 1, dscp, number)
