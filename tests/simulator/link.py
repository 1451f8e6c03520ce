"""The path: a queue for each lane, one link, and the ways behind it.

    client --> [ EF ] \\                          .-- delay + jitter ------------.
           --> [ AF ]  > strict priority, a link -|                               |--> server
           --> [ DF ] /                           '-- delay + jitter + hold ------'

The link is served when somebody asks what has happened until a time (`advance`), not by an event for each record: that
is what makes the simulator fast. Nothing here knows a record's number.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from math import sqrt

from qosctl.bpf.dscp import Dscp

from tests.simulator.case import BULK_SIZE, CLASSES, Path
from tests.simulator.clock import Clock, Record

_ORDERS = {"strict": (0, 1, 2), "shares": (0, 1, 2), "one": (0, 0, 0), "inverted": (2, 1, 0)}
QUANTUM = 1514
"""Bytes that a lane may send in its turn, where lanes share."""
CODEL_INTERVAL_S = 0.1
"""RFC 8289 section 3.2."""
CODEL_LEAST_BYTES = 1500
"""A queue this short is left alone (RFC 8289 section 4.1: one MTU)."""


class CoDel:
    """When to drop the record at the front (RFC 8289 section 5)."""

    def __init__(self, target_s: float) -> None:
        self._target = target_s
        self._above_at = 0.0  # when the delay has been above the target for an interval; 0: it is not
        self._dropping = False
        self._next = 0.0
        self._count = 0

    def drops(self, now: float, waited: float, held: int) -> bool:
        """Tell whether a record that leaves at `now` after waiting so long, with `held` bytes behind it, is dropped."""
        if waited < self._target or held < CODEL_LEAST_BYTES:
            self._above_at, self._dropping = 0.0, False
            return False
        if not self._above_at:
            self._above_at = now + CODEL_INTERVAL_S
            return False
        if self._dropping:
            if now < self._next:
                return False
            self._count += 1
            self._next += CODEL_INTERVAL_S / sqrt(self._count)
            return True
        if now < self._above_at:
            return False
        self._dropping = True
        recently = now - self._next < 16 * CODEL_INTERVAL_S
        self._count = self._count - 2 if recently and self._count > 2 else 1
        self._next = now + CODEL_INTERVAL_S / sqrt(self._count)
        return True


class Lane:
    """One queue."""

    def __init__(self, codel: CoDel | None) -> None:
        self.records: deque[Record] = deque()
        self.held = 0
        self.codel = codel
        self.credit = 0
        """Bytes left of its turn."""


class Link:
    """Takes records with `send`, and hands over with `deliver(record, when)` in the order they arrive."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        rng: random.Random,
        deliver: Callable[[Record, float], None],
        dropped: Callable[[Record, bool], None],
    ) -> None:
        """`dropped(record, queue)` is told of each record that is lost, in a queue or behind it."""
        self._path, self._clock, self._random = path, clock, rng.random
        self._deliver, self._dropped = deliver, dropped
        self._limit, self._in_packets = int(path.queue_kb * 1000), path.in_packets
        lanes = [Lane(CoDel(path.codel_ms / 1000) if path.codel_ms else None) for _ in CLASSES]
        order = _ORDERS[path.lanes]
        self._lanes = list(lanes)
        self._shared = path.lanes == "shares"
        self._lane = {Dscp.parse(name): lanes[order[i]] for i, name in enumerate(CLASSES)}
        self._bulk = Dscp.parse("DF")
        self._seconds_per_byte = 8 / (path.mbit * 1e6)
        self._free_at = 0.0
        self._waiting = 0
        self._delay = path.round_trip_ms / 2000
        self._straight = not (path.jitter_ms or path.second_way or path.bulk_lag_ms)
        self._odd_from = path.odd_from_s
        self._flying: list[tuple[float, int, Record]] = []
        self._serial = itertools.count()
        self._latest = 0.0  # arrival, where jitter keeps the order
        self._turn = 0.0
        self._left = 0  # of a run on the second way
        for when, mbit in path.rates:
            clock.at(when, self._change, mbit)

    def send(self, record: Record) -> None:
        """Queue a record, or drop it at the tail."""
        now = self._clock.now
        if self._free_at <= now:
            self._serve(now)
            self._free_at = max(self._free_at, now)
        lane = self._lane[record.dscp]
        held = lane.held + (BULK_SIZE if self._in_packets else record.size)
        if held > self._limit:
            self._dropped(record, True)
            return
        lane.held = held
        lane.records.append(record)
        record.sent = now
        self._waiting += 1

    def advance(self, until: float) -> None:
        """Serve and deliver what there is up to `until`; stop as soon as an event comes before it."""
        if self._waiting and self._free_at <= until:
            self._serve(until)
        if self._flying:
            # What is not served yet, or not sent yet, arrives later than this.
            self._land((self._free_at if self._waiting and self._free_at < until else until) + self._delay)

    def _change(self, mbit: float) -> None:
        self._seconds_per_byte = 8 / (mbit * 1e6)

    def _serve(self, until: float) -> None:
        events = self._clock.events
        while self._waiting and self._free_at <= until:
            lane = self._next_lane()
            record = lane.records.popleft()
            lane.held -= BULK_SIZE if self._in_packets else record.size
            self._waiting -= 1
            if lane.codel is not None and lane.codel.drops(self._free_at, self._free_at - record.sent, lane.held):
                self._dropped(record, True)
                continue
            self._free_at += record.size * self._seconds_per_byte
            if self._straight or self._free_at < self._odd_from:
                if self._path.loss and self._random() < self._path.loss:
                    self._dropped(record, False)
                    continue
                self._deliver(record, self._free_at + self._delay)
            else:
                self._fly(record)
                self._land(self._free_at + self._delay)
            if events and events[0][0] < until:
                return

    def _next_lane(self) -> Lane:
        """Return the lane that sends next; some lane has something to send."""
        lanes = self._lanes
        if not self._shared:
            return next(lane for lane in lanes if lane.records)
        while True:
            lane = lanes[0]
            if lane.records and lane.credit > 0:
                lane.credit -= lane.records[0].size
                return lane
            lane.credit = min(lane.credit + QUANTUM, QUANTUM) if lane.records else 0
            lanes.append(lanes.pop(0))

    def _fly(self, record: Record) -> None:
        path, chance = self._path, self._random
        loss, when = path.loss, self._free_at + self._delay
        if path.jitter_ms:
            when += chance() * path.jitter_ms / 1000
        if path.second_way and self._second():
            when += path.hold_ms / 1000
            loss = loss + path.second_loss
        if path.bulk_lag_ms and record.dscp is self._bulk:
            when += path.bulk_lag_ms / 1000
        if loss and chance() < loss:
            self._dropped(record, False)
            return
        if path.in_order:
            when = self._latest = max(when, self._latest)
        heapq.heappush(self._flying, (when, next(self._serial), record))

    def _second(self) -> bool:
        if self._left:
            self._left -= 1
            return True
        self._turn += self._path.second_way / max(1e-9, 1 - self._path.second_way) / self._path.run
        if self._turn >= 1:
            self._turn -= 1
            self._left = self._path.run
        return False

    def _land(self, until: float) -> None:
        flying = self._flying
        while flying and flying[0][0] <= until:
            when, _, record = heapq.heappop(flying)
            self._deliver(record, when)
