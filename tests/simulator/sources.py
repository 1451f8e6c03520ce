"""The traffic of the simulator: constant and bursty datagrams, and sixteen flows that behave like TCP.

A source calls `send(dscp, sizes or flows)` of the client; it knows nothing of record numbers.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Protocol

from qosctl.bpf.dscp import Dscp

from tests.simulator.path import Clock

MIN_RETRANSMIT = 0.3
"""Seconds without an acknowledgement after which a TCP flow starts over."""


class Client(Protocol):
    """What a source sees of the sending side."""

    def send(self, dscp: Dscp, count: int, size: int, flow: TcpFlow | None = None) -> None:
        """Send `count` records of `size` bytes."""


class Datagrams:
    """Constant rate: `batch` records every tick, the tick jittered by up to a tenth, or exponential where `poisson`.

    With `on` and `off` it sends for `on` seconds, rests for `off`, and so on.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        client: Client,
        dscp: Dscp,
        *,
        rate: float,
        size: int,
        batch: int = 1,
        start: float = 0.0,
        poisson: bool = False,
        on: float = 0.0,
        off: float = 0.0,
    ) -> None:
        self._clock, self._rng, self._client, self._dscp = clock, rng, client, dscp
        self._tick = size * 8 * batch / rate
        self._size, self._batch = size, batch
        self._poisson = poisson
        self._start, self._on, self._cycle = start, on, on + off
        clock.at(start, self._send)

    def _send(self, _: object) -> None:
        now = self._clock.now
        if self._cycle and (phase := (now - self._start) % self._cycle) >= self._on:
            self._clock.at(now + self._cycle - phase, self._send)
            return
        self._client.send(self._dscp, self._batch, self._size)
        factor = self._rng.expovariate(1.0) if self._poisson else self._rng.uniform(0.9, 1.1)
        self._clock.at(now + self._tick * factor, self._send)


class TcpFlow:
    """Slow start, then additive increase and a cut by 0.7; losses are seen through later acknowledgements."""

    def __init__(self, clock: Clock, client: Client, dscp: Dscp, *, size: int, start: float) -> None:
        self._clock, self._client, self._dscp, self._size = clock, client, dscp, size
        self._window = 10.0
        self._threshold = 1e9
        self._outstanding: deque[int] = deque()
        self._next = 0
        self._recover = -1
        self._heard = start
        self._smoothed = 0.1
        self.retransmits = 0
        clock.at(start, self._fill)
        clock.at(start + MIN_RETRANSMIT, self._watch)

    def acknowledged(self, serial: int, round_trip: float) -> None:
        """Take an acknowledgement: what was sent three or more before it and is still open is lost."""
        outstanding = self._outstanding
        self._heard = self._clock.now
        self._smoothed += (round_trip - self._smoothed) / 8
        lost = 0
        while outstanding and outstanding[0] <= serial - 3:
            outstanding.popleft()
            lost += 1
        if outstanding and outstanding[0] == serial:
            outstanding.popleft()
        elif serial in outstanding:
            outstanding.remove(serial)
        if lost:
            self.retransmits += lost
            if serial > self._recover:
                self._threshold = max(2.0, self._window * 0.7)
                self._window = self._threshold
                self._recover = self._next
        elif self._window < self._threshold:
            self._window += 1
        else:
            self._window += 1 / self._window
        self._fill(None)

    def _fill(self, _: object) -> None:
        room = int(self._window) - len(self._outstanding)
        if room > 0:
            # During a recovery a sender does not release all it may at once.
            room = min(room, 2 if self._recover >= self._next - len(self._outstanding) else 10)
            self._client.send(self._dscp, room, self._size, self)

    def serial(self) -> int:
        """Note one sent segment and return its place in the flow."""
        serial = self._next
        self._next += 1
        self._outstanding.append(serial)
        return serial

    def _watch(self, _: object) -> None:
        now = self._clock.now
        patience = max(MIN_RETRANSMIT, 2 * self._smoothed)
        if now - self._heard > patience:
            self.retransmits += len(self._outstanding)
            self._outstanding.clear()
            self._threshold = max(2.0, self._window / 2)
            self._window = 2.0
            self._recover = self._next
            self._heard = now
            self._fill(None)
        self._clock.at(now + patience / 4, self._watch)
