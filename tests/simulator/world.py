"""One run of the simulator: a scenario in, what became of every class out."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from qosctl.bpf.dscp import DF, EF, Dscp

from tests.simulator.path import WINDOWS, Bottleneck, ClassTally, Clock, Record, ReplayWindow
from tests.simulator.sources import Datagrams, TcpFlow

AF41 = Dscp.parse("AF41")
BULK_SIZE = 1278  # a 1,200-byte inner packet and its four outer headers
CALL_SIZE = 238
PROBE_SIZE = 28 + 37 + 9  # IP and UDP, DTLS with AES-GCM, type byte and id
FLOWS = 16
DEVICE_QUEUE = 500
"""Packets that wait in the TUN device while the client pauses; what comes then is lost, as the kernel would lose it."""
READ_RECORDS, RECORD_SECONDS = 64, 10e-6
"""After a pause the client reads so many packets at once, and then looks at what has come; each takes it so long."""


class ProbingNumbering(Protocol):
    """The numbering under test, as the client's loop sees it."""

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]: ...
    def probe_due(self, now: float) -> Dscp | None: ...
    def probe_sent(self, dscp: Dscp, now: float) -> int: ...
    def probe_echoed(self, probe: int, now: float) -> None: ...
    def next_probe_at(self, now: float) -> float | None: ...


@dataclass(frozen=True)
class Scenario:
    """A path and its traffic. Rates are Mbit/s on the wire, times milliseconds, queues packets for each class."""

    rate: float = 20.0
    queue: int = 200
    share: float = 0.4
    """Of the link's rate, in per cent, taken by the priority class."""
    round_trip: float = 5.0
    bulk: Literal["udp", "tcp", "bursts", "none"] = "udp"
    overload: float = 2.0
    batch: int = 4
    """Records that a datagram source sends at once."""
    priority_size: int = 0
    """0: a call's packets up to a share of 2 %, video's above."""
    poisson: bool = True
    middle: float = 0.0
    """Mbit/s of a middle class (AF41), in frames of ten records."""
    call_start: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rates: tuple[tuple[float, float], ...] = ()
    """Changes: (second, Mbit/s)."""
    inverted: bool = False
    """The network serves DF first: which class is slow cannot be told from its name."""
    pause: float = 0.0
    """Milliseconds, at the most, for which the client does nothing at all (another process has its core). Then it hears the
    echoes that have come, and sends what has gathered, one read after the other and each class by class. Up to ten
    times a second."""
    byte_queue: bool = False
    """The queues' limit counts bytes, as a bfifo's does: room for `queue` bulk records."""
    one_queue: bool = False
    """The network knows no classes."""
    echo: bool = True
    seconds: float = 0.0
    """0: as many as `fair_seconds` says."""
    warm: float = -1.0
    """Seconds not counted (but reported as start losses); below 0: four full queues and six round trips."""
    seed: int = 1

    @property
    def full_queue(self) -> float:
        """Seconds that a full bulk queue holds."""
        return self.queue * BULK_SIZE * 8 / (self.rate * 1e6)

    def timed(self, least_records: int = 8_000) -> Scenario:
        """Fill in `seconds` and `warm`: ten turns of the control loop and enough records to see 1 % and 0.1 %."""
        turn = self.full_queue + self.round_trip / 1000
        warm = self.warm if self.warm >= 0 else 0.5 + 4 * self.full_queue + 6 * self.round_trip / 1000
        body = max(10 * turn, least_records * BULK_SIZE * 8 / (self.rate * 1e6))
        return replace(self, warm=warm, seconds=self.seconds or warm + body)


@dataclass
class Outcome:
    """What a run showed. Counts are for records sent after the warm-up."""

    scenario: Scenario
    classes: dict[Dscp, ClassTally]
    start_losses: dict[Dscp, int]
    """Replay drops (window of 64) of records sent before the warm-up's end."""
    errors: list[tuple[float, int]] = field(default_factory=list)
    """(time, number of an overtaking record - last bulk number the receiver had) at its arrival."""
    probes: int = 0
    probe_bytes: int = 0
    numbers: set[int] = field(default_factory=set)
    records: int = 0
    tcp_retransmits: int = 0

    def replay_loss(self, dscp: Dscp, window: int = 0) -> float:
        """Return the share of the class's arrived records that window number `window` dropped, in per cent."""
        tally = self.classes.get(dscp)
        return 100 * tally.replayed[window] / tally.arrived if tally and tally.arrived else 0.0

    def goodput(self, dscp: Dscp) -> float:
        """Return the class's accepted Mbit/s on the wire."""
        tally = self.classes[dscp]
        accepted = tally.arrived - tally.replayed[0]
        size = tally.bytes_sent / tally.sent if tally.sent else 0
        return accepted * size * 8 / 1e6 / (self.scenario.seconds - self.scenario.warm)

    @property
    def probe_load(self) -> tuple[float, float]:
        """Return probes in per cent of all bytes and of all records sent."""
        total = sum(tally.bytes_sent for tally in self.classes.values())
        count = sum(tally.sent for tally in self.classes.values())
        return 100 * self.probe_bytes / max(1, total), 100 * self.probes / max(1, count)


class World:
    """Client, path and server, joined."""

    def __init__(self, scenario: Scenario, numbering: ProbingNumbering) -> None:
        self.scenario = s = scenario
        self.numbering = numbering
        self.clock = Clock()
        self.rng = random.Random(s.seed)
        order = [DF, AF41, EF] if s.inverted else [EF, AF41, DF]
        level = {dscp: 0 if s.one_queue else i for i, dscp in enumerate(order)}
        limit = s.queue * (BULK_SIZE if s.byte_queue else 1)
        self.link = Bottleneck(
            self.clock, self.rng, rate=s.rate * 1e6, queues=level, limits=[limit] * 3, in_bytes=s.byte_queue,
            delay=s.round_trip / 2000, jitter=s.jitter / 1000, loss=s.loss, deliver=self._deliver, drop=self._dropped,
        )  # fmt: skip
        self.windows = [ReplayWindow(width) for width in WINDOWS]
        self.outcome = Outcome(s, {}, {})
        self.bulk_position = 0
        self._slow = EF if s.inverted else DF
        self._timer: float | None = None
        self._paused = False
        self._gathered: deque[tuple[Dscp, int, TcpFlow | None]] = deque()
        self._echoes: list[int] = []
        if s.pause:
            self.clock.at(0.1, self._pause)
        self._sources()
        for when, mbit in s.rates:
            self.clock.at(when, lambda rate: setattr(self.link, "rate", rate), mbit * 1e6)

    def _sources(self) -> None:
        s, clock, rng = self.scenario, self.clock, self.rng
        if s.bulk == "tcp":
            self.flows = [TcpFlow(clock, self, DF, size=BULK_SIZE, start=rng.random() * 0.2) for _ in range(FLOWS)]
        elif s.bulk != "none":
            on, off = (1.0, 0.5) if s.bulk == "bursts" else (0.0, 0.0)
            rate = s.rate * 1e6 * s.overload
            Datagrams(clock, rng, self, DF, rate=rate, size=BULK_SIZE, batch=s.batch, on=on, off=off)
        if s.share:
            size = s.priority_size or (CALL_SIZE if s.share <= 2 else BULK_SIZE)
            rate = s.rate * 1e4 * s.share
            Datagrams(clock, rng, self, EF, rate=rate, size=size, start=s.call_start, poisson=s.poisson)
        if s.middle:
            Datagrams(clock, rng, self, AF41, rate=s.middle * 1e6, size=BULK_SIZE, batch=10, start=s.call_start)

    def run(self) -> Outcome:
        """Run to the scenario's end."""
        self.clock.run(self.scenario.seconds)
        self.outcome.tcp_retransmits = sum(flow.retransmits for flow in getattr(self, "flows", ()))
        return self.outcome

    # The client

    def send(self, dscp: Dscp, count: int, size: int, flow: TcpFlow | None = None) -> None:
        """Send records of one class, as a source asks; a probe that is due goes first, where it finds most room."""
        if self._paused:
            room = DEVICE_QUEUE - len(self._gathered)
            self._gathered.extend([(dscp, size, flow)] * min(count, room))
            if flow is not None:
                for _ in range(count - room):
                    flow.serial()  # lost: it will miss the acknowledgement
            return
        self._poll(None)
        self._emit(dscp, count, size, flow, None)

    def _emit(self, dscp: Dscp, count: int, size: int, flow: TcpFlow | None, probe: int | None) -> None:
        self._transmit(dscp, self._number(dscp, count), size, flow, probe)

    def _number(self, dscp: Dscp, count: int) -> Sequence[int]:
        numbers = self.numbering.take(dscp, count, self.clock.now)
        self.outcome.records += count
        self.outcome.numbers.update(numbers)
        return numbers

    def _transmit(self, dscp: Dscp, numbers: Sequence[int], size: int, flow: TcpFlow | None, probe: int | None) -> None:
        now, out, link = self.clock.now, self.outcome, self.link
        if now >= self.scenario.warm:
            tally = self._tally(dscp)
            if probe is None:
                tally.sent += len(numbers)
                tally.bytes_sent += len(numbers) * size
            else:
                out.probes += 1
                out.probe_bytes += size
        for number in numbers:
            link.send(Record(number, dscp, size, now, flow, flow.serial() if flow else 0, probe))

    def _poll(self, timer: object) -> None:
        now, numbering = self.clock.now, self.numbering
        if timer is not None:
            self._timer = None
        while (dscp := numbering.probe_due(now)) is not None:
            self._emit(dscp, 1, PROBE_SIZE, None, numbering.probe_sent(dscp, now))
        due = numbering.next_probe_at(now)
        if due is not None and (self._timer is None or due < self._timer):
            due = max(due, now + 1e-4)
            self._timer = due
            self.clock.at(due, self._poll, True)

    def _pause(self, _: object) -> None:
        self._paused = True
        self.clock.at(self.clock.now + self.rng.random() * self.scenario.pause / 1000, self._resume)

    def _resume(self, _: object) -> None:
        """Do what the loop does: hear what came from the network, send one read, class by class, and look again."""
        echoes, self._echoes = self._echoes, []
        for probe in echoes:
            self.numbering.probe_echoed(probe, self.clock.now)
        gathered = self._gathered
        read = [gathered.popleft() for _ in range(min(READ_RECORDS, len(gathered)))]
        if read:
            self._poll(None)
        for dscp in dict.fromkeys(dscp for dscp, _size, _flow in read):
            members = [(size, flow) for other, size, flow in read if other is dscp]
            for number, (size, flow) in zip(self._number(dscp, len(members)), members, strict=True):
                self._transmit(dscp, (number,), size, flow, None)
        if gathered:
            self.clock.at(self.clock.now + len(read) * RECORD_SECONDS, self._resume)
            return
        self._paused = False
        self.clock.at(self.clock.now + self.rng.uniform(0.05, 0.15), self._pause)

    def _echo(self, probe: int) -> None:
        if self._paused:
            self._echoes.append(probe)
            return
        self.numbering.probe_echoed(probe, self.clock.now)
        self._poll(None)

    # The server

    def _tally(self, dscp: Dscp) -> ClassTally:
        tally = self.outcome.classes.get(dscp)
        if tally is None:
            tally = self.outcome.classes[dscp] = ClassTally()
        return tally

    def _dropped(self, record: Record, at_the_queue: bool) -> None:
        if record.sent >= self.scenario.warm:
            tally = self._tally(record.dscp)
            if at_the_queue:
                tally.queue_dropped += 1
            else:
                tally.path_lost += 1

    def _deliver(self, record: Record) -> None:
        clock = self.clock
        number = record.number
        verdicts = [window.accept(number) for window in self.windows]
        if record.probe is None:
            if record.dscp is not self._slow:
                self.outcome.errors.append((clock.now, number - self.bulk_position))
            if record.sent >= self.scenario.warm:
                tally = self._tally(record.dscp)
                tally.arrived += 1
                for i, accepted in enumerate(verdicts):
                    if not accepted:
                        tally.replayed[i] += 1
            elif not verdicts[0]:
                self.outcome.start_losses[record.dscp] = self.outcome.start_losses.get(record.dscp, 0) + 1
        if record.dscp is self._slow:
            self.bulk_position = max(self.bulk_position, number)
        if not verdicts[0]:
            return
        back = clock.now + self.scenario.round_trip / 2000
        if record.probe is not None:
            if self.scenario.echo:
                if self.scenario.jitter:
                    back += self.rng.random() * self.scenario.jitter / 1000
                clock.at(back, self._echo, record.probe)
        elif record.flow is not None:
            clock.at(back, self._acknowledge, record)

    def _acknowledge(self, record: Any) -> None:
        record.flow.acknowledged(record.serial, self.clock.now - record.sent)


def simulate(scenario: Scenario, make: Callable[[], ProbingNumbering]) -> Outcome:
    """Run one scenario with a fresh numbering."""
    return World(scenario.timed(), make()).run()
