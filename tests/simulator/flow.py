"""A sender that behaves like TCP: slow start, CUBIC (RFC 9438), losses seen through later acknowledgements."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from qosctl.bpf.dscp import Dscp

from tests.simulator.case import BULK_SIZE, Flow
from tests.simulator.clock import Clock

INITIAL_WINDOW = 10.0
"""Segments (RFC 6928)."""
LEAST_TIMEOUT_S = 0.3
BETA, C = 0.7, 0.4
"""RFC 9438 section 4.6 and 5."""
REORDERING = 3
"""Segments by which one must be late to be taken for lost (RFC 5681 section 3.2)."""


class Sink(Protocol):
    """Where packets are written to."""

    def offer(self, dscp: Dscp, count: int, size: int, flow: TcpFlow | None = None) -> None:
        """Write `count` packets of `size` bytes."""


class TcpFlow:
    """One sender, with transfer after transfer."""

    def __init__(self, flow: Flow, clock: Clock, sink: Sink) -> None:
        self._flow, self._clock, self._sink = flow, clock, sink
        self._dscp = Dscp.parse(flow.dscp)
        self._next = 0
        self._outstanding: deque[int] = deque()
        self._generation = 0
        self._smoothed = 0.1
        clock.at(flow.start_s, self._begin)

    def _begin(self, _: object) -> None:
        flow = self._flow
        self._left = int(flow.kilobytes * 1000 / BULK_SIZE) + 1 if flow.kilobytes else None
        self._window, self._threshold = INITIAL_WINDOW, 1e9
        self._most, self._epoch = 0.0, 0.0
        self._recover = -1
        self._outstanding.clear()
        self._generation += 1
        self._heard = self._clock.now
        self._fill()
        self._clock.at(self._clock.now + LEAST_TIMEOUT_S, self._watch, self._generation)

    @property
    def outstanding(self) -> int:
        """Segments that are neither acknowledged nor given up."""
        return len(self._outstanding)

    def serial(self) -> int:
        """Note one written segment and return its place in the flow."""
        serial = self._next
        self._next = serial + 1
        self._outstanding.append(serial)
        return serial

    def acknowledged(self, serial_and_sent: tuple[int, float]) -> None:
        """Take an acknowledgement of a segment, and when it was written."""
        serial, sent = serial_and_sent
        outstanding, now = self._outstanding, self._clock.now
        self._heard = now
        self._smoothed += (now - sent - self._smoothed) / 8
        lost = False
        while outstanding and outstanding[0] <= serial - REORDERING:
            outstanding.popleft()
            lost = True
        if outstanding and outstanding[0] == serial:
            outstanding.popleft()
        elif serial in outstanding:
            outstanding.remove(serial)
        if lost and serial > self._recover:
            self._most, self._epoch = self._window, now
            self._window = self._threshold = max(2.0, self._window * BETA)
            self._recover = self._next
        elif not lost:
            self._grow(now)
        self._fill()

    def _grow(self, now: float) -> None:
        if self._window < self._threshold:
            self._window += 1
            return
        if not self._epoch:
            self._most, self._epoch = self._window, now
        until_most = (self._most * (1 - BETA) / C) ** (1 / 3)
        target = C * (now - self._epoch - until_most) ** 3 + self._most
        target = min(target, 1.5 * self._window)
        self._window += max(0.01, (target - self._window) / self._window)

    def _fill(self) -> None:
        room = int(self._window) - len(self._outstanding)
        if self._left is not None:
            room = min(room, self._left)
        if room > 0:
            room = min(room, 2 if self._recover >= self._next - len(self._outstanding) else 10)
            if self._left is not None:
                self._left -= room
            self._sink.offer(self._dscp, room, BULK_SIZE, self)
        elif self._left == 0 and not self._outstanding:
            self._left = -1
            self._generation += 1
            self._clock.at(self._clock.now + self._flow.rest_s, self._begin)

    def _watch(self, generation: int) -> None:
        if generation != self._generation:
            return
        now, patience = self._clock.now, max(LEAST_TIMEOUT_S, 2 * self._smoothed)
        if now - self._heard > patience:
            if self._left is not None:
                self._left += len(self._outstanding)
            self._outstanding.clear()
            self._threshold, self._window = max(2.0, self._window / 2), 2.0
            self._epoch = 0.0
            self._recover = self._next
            self._heard = now
            self._fill()
        self._clock.at(now + patience / 4, self._watch, generation)
