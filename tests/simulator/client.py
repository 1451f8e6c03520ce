"""The client's loop, as far as numbers depend on it: the only place that drives a numbering.

A turn does what `qosctl.dtls.session.loop` does: hear the echoes that have come, read what the device holds, send the
probes that are due, then number and send class by class, the most urgent first. While it works, or stops, packets wait in
the device and echoes in the socket. A stop may lie between the choice of numbers and their sending, of one part; the parts
behind it have no numbers yet (`send_queue`).

Beside it PlainNumbering numbers the same records, and once more without the probes, which only ours sends.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Sequence

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.numbering.probe import PROBES_AT_ONCE, ProbingNumbering
from qosctl.dtls.urgency import rank

from tests.simulator.case import Machine
from tests.simulator.clock import Clock, Record
from tests.simulator.flow import TcpFlow
from tests.simulator.link import Link

DEVICE_QUEUE = 500
"""Packets that wait in the TUN device; what comes then is lost, as the kernel would lose it."""
READ_RECORDS = 128
"""Packets that the client reads at once."""
PROBED_RECORDS = 64
"""After so many records of a class the client asks for probes again."""
PROBE_SIZE = 28 + 37 + 9
"""IP and UDP, DTLS with AES-GCM, type byte and id."""
LEAST_STOP_S = 0.001

Packet = tuple[Dscp, int, TcpFlow | None, int]
"""Class, size, flow, place in the flow."""
Part = tuple[Dscp, Sequence[Packet], bool]
"""Class, packets that are numbered together and then sent, whether they ask for probes first."""


class Client:
    """Takes packets (`offer`) and echoes (`echoed`)."""

    def __init__(self, numbering: ProbingNumbering, machine: Machine, clock: Clock, rng: random.Random, link: Link) -> None:
        self.numbering = numbering
        self.probes = 0
        self.numbers: set[int] = set()
        self.records = 0
        self._plain, self._bare = PlainNumbering(first=0), PlainNumbering(first=0)
        self._machine, self._clock, self._rng, self._link = machine, clock, rng, link
        self._record_s = machine.record_us / 1e6
        self._device: deque[Packet] = deque()
        self._echoes: list[int] = []
        self._busy = False
        self._stopped_until = 0.0
        self._stop = 0.0  # seconds for which the next turn stops between choosing and sending
        if machine.stop_ms:
            self._plan_stop()

    def offer(self, dscp: Dscp, count: int, size: int, flow: TcpFlow | None = None) -> None:
        """Write packets into the device. See `flow.Sink`."""
        device = self._device
        room = DEVICE_QUEUE - len(device)
        if flow is None:
            device.extend([(dscp, size, None, 0)] * min(count, room))
        else:
            packets = [(dscp, size, flow, flow.serial()) for _ in range(count)]
            device.extend(packets[:room])
        if not self._busy:
            self._turn()

    def echoed(self, probe: int) -> None:
        """An echo reaches the socket."""
        if self._busy or self._clock.now < self._stopped_until:
            self._echoes.append(probe)
        else:
            self.numbering.probe_echoed(probe, self._clock.now)

    def _turn(self, _: object = None) -> None:
        clock, numbering, device = self._clock, self.numbering, self._device
        now = clock.now
        self._busy = True
        if now < self._stopped_until:
            clock.at(self._stopped_until, self._turn)
            return
        if self._echoes:
            for probe in self._echoes:
                numbering.probe_echoed(probe, now)
            self._echoes.clear()
        if not device:
            self._busy = False
            return
        read = [device.popleft() for _ in range(min(READ_RECORDS, len(device)))]
        classes: dict[Dscp, list[Packet]] = {}
        for packet in read:
            classes.setdefault(packet[0], []).append(packet)
        self._probe(classes, now)
        parts = [
            (dscp, classes[dscp][begin : begin + PROBED_RECORDS], begin > 0)
            for dscp in sorted(classes, key=rank)
            for begin in range(0, len(classes[dscp]), PROBED_RECORDS)
        ]
        stop, self._stop = self._stop, 0.0
        if stop:
            at = self._rng.randrange(len(parts))
            self._send_parts(parts[:at])
            dscp, packets, asks = parts[at]
            records = self._part(dscp, packets, asks)
            clock.at(now + stop, self._send_late, (records, numbering.good_until, parts[at + 1 :]))
        else:
            self._send_parts(parts)
        clock.at(now + len(read) * self._record_s + stop, self._turn)

    def _send_parts(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self._send(self._part(*part))

    def _part(self, dscp: Dscp, packets: Sequence[Packet], asks: bool) -> list[Record]:
        """Number the packets of one part, after the probes that are due before it."""
        now = self._clock.now
        if asks:
            self._probe((dscp,), now)
        return self._number(dscp, packets, now)

    def _number(self, dscp: Dscp, packets: Sequence[Packet], now: float) -> list[Record]:
        count = len(packets)
        numbers = self._take(dscp, count, now)
        plain, bare = self._plain.take(dscp, count, now), self._bare.take(dscp, count, now)
        return [
            Record(number, other, alone, dscp, size, now, flow, serial)
            for number, other, alone, (_, size, flow, serial) in zip(numbers, plain, bare, packets, strict=True)
        ]

    def _probe(self, present: Collection[Dscp], now: float) -> None:
        """Send the probes that are due before packets of these classes."""
        numbering = self.numbering
        if numbering.waits(now):
            return
        for _ in range(PROBES_AT_ONCE):
            dscp = numbering.probe_due(now, present)
            if dscp is None:
                return
            probe = numbering.probe_sent(dscp, now)
            (number,) = self._take(dscp, 1, now)
            (plain,) = self._plain.take(dscp, 1, now)
            self.probes += 1
            self._link.send(Record(number, plain, -1, dscp, PROBE_SIZE, now, probe=probe))

    def _take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        numbers = self.numbering.take(dscp, count, now)
        self.records += count
        self.numbers.update(numbers)
        return numbers

    def _send_late(self, late: tuple[list[Record], float, Sequence[Part]]) -> None:
        """Send what was numbered before a stop, with others if those are not good any more; then the parts behind."""
        records, good_until, parts = late
        now = self._clock.now
        if now > good_until:
            for record, number in zip(records, self._take(records[0].dscp, len(records), now), strict=True):
                record.number = number
        self._send(records)
        self._send_parts(parts)

    def _send(self, records: list[Record]) -> None:
        for record in records:
            self._link.send(record)

    def _plan_stop(self) -> None:
        self._clock.at(self._clock.now + self._rng.expovariate(1 / self._machine.stop_every_s), self._stops)

    def _stops(self, _: object) -> None:
        seconds = max(LEAST_STOP_S, self._rng.random() * self._machine.stop_ms / 1000)
        if self._rng.random() < self._machine.between:
            self._stop = seconds
        else:
            self._stopped_until = self._clock.now + seconds
        self._plan_stop()
