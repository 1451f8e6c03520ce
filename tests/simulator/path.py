"""The path of the simulator: a clock of events, a bottleneck with a queue for each class, receivers with replay windows.

    client --> [ EF ] \\
           --> [ AF ]  > strict priority, one link --> delay + jitter, loss --> receivers (windows of 64, 128, 1024)
           --> [ DF ] /                                                             |
    client <------------------------ delay (+ jitter) ---------------------- echo, acknowledgement

Time is virtual and in seconds, sizes are bytes on the wire, and all chance comes from one seeded generator.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qosctl.bpf.dscp import Dscp

WINDOWS = (64, 128, 1024)
"""Replay windows judged in one run; the first is ocserv's, and the one whose drops the traffic feels."""


class Clock:
    """Runs events in the order of their time; ties in the order they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._serial = itertools.count()

    def at(self, when: float, action: Callable[[Any], None], argument: object = None) -> None:
        """Plan `action(argument)` for `when`."""
        heapq.heappush(self._events, (when, next(self._serial), action, argument))

    def run(self, until: float) -> None:
        """Run all events up to `until`."""
        events, pop = self._events, heapq.heappop
        while events and events[0][0] <= until:
            self.now, _, action, argument = pop(events)
            action(argument)
        self.now = until


@dataclass(slots=True)
class Record:
    """One sealed record on its way."""

    number: int
    dscp: Dscp
    size: int
    sent: float
    flow: Any = None  # who hears of its arrival: a TCP flow
    serial: int = 0  # its place in that flow
    probe: int | None = None


class ReplayWindow:
    """The receiver's rule: drop what was seen, and what is `width` or more below the highest seen."""

    def __init__(self, width: int) -> None:
        self.highest = -1
        self._width = width
        self._mask = (1 << width) - 1
        self._seen = 0  # bit i: highest - i was seen

    def accept(self, number: int) -> bool:
        """Judge one arrival, and move the window."""
        ahead = number - self.highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) & self._mask) | 1 if ahead < self._width else 1
            self.highest = number
            return True
        bit = 1 << -ahead if -ahead < self._width else 0
        if not bit or self._seen & bit:
            return False
        self._seen |= bit
        return True


@dataclass
class ClassTally:
    """What became of one class's records."""

    sent: int = 0
    bytes_sent: int = 0
    queue_dropped: int = 0
    path_lost: int = 0
    arrived: int = 0
    replayed: list[int] = field(default_factory=lambda: [0] * len(WINDOWS))


class Bottleneck:
    """Strict priority between tail-drop queues, one link, then a delay with jitter and chance loss.

    Queues hold packets or bytes: one of bytes nearly always has room for a probe, one of packets has not.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        *,
        rate: float,
        queues: dict[Dscp, int],
        limits: list[int],
        in_bytes: bool,
        delay: float,
        jitter: float,
        loss: float,
        deliver: Callable[[Record], None],
        drop: Callable[[Record, bool], None],
    ) -> None:
        self.rate = rate  # bit/s
        self._clock = clock
        self._rng = rng
        self._level = queues
        self._limits = limits
        self._in_bytes = in_bytes
        self.queues: list[deque[Record]] = [deque() for _ in limits]
        self._held = [0] * len(limits)
        self._delay = delay
        self._jitter = jitter
        self._loss = loss
        self._deliver = deliver
        self._drop = drop
        self._busy = False

    def send(self, record: Record) -> None:
        """Queue a record, or drop it at the tail."""
        level = self._level[record.dscp]
        queue = self.queues[level]
        held = self._held[level] + (record.size if self._in_bytes else 1)
        if held > self._limits[level]:
            self._drop(record, True)
            return
        self._held[level] = held
        queue.append(record)
        if not self._busy:
            self._serve()

    def _serve(self) -> None:
        for level, queue in enumerate(self.queues):
            if queue:
                record = queue.popleft()
                self._held[level] -= record.size if self._in_bytes else 1
                self._busy = True
                clock = self._clock
                clock.at(clock.now + record.size * 8 / self.rate, self._served, record)
                return
        self._busy = False

    def _served(self, record: Record) -> None:
        if self._loss and self._rng.random() < self._loss:
            self._drop(record, False)
        else:
            delay = self._delay
            if self._jitter:
                delay += self._rng.random() * self._jitter
            self._clock.at(self._clock.now + delay, self._deliver, record)
        self._serve()
