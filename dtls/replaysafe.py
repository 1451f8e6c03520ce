"""Replay-safe numbering (theory to be written)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.gaps import GapReserve
from qosctl.dtls.lanes import Lane, Probe
from qosctl.dtls.numbering import FIRST_NUMBER, end_of_epoch, exhausted
from qosctl.dtls.sendlog import SendLog

IDLE = 10.0
"""Seconds without a record after which a class no longer counts."""
RUN = 16
"""Consecutive numbers between two gaps, at the most."""
BLOCK = 8
"""Numbers in a gap, about."""
LEAST_SHARE = 1 / 16
"""Gap numbers for each bulk record when next to nothing overtakes."""
SURPLUS = 1.2
"""Gap numbers for each record that overtakes."""
SPAN = 32
"""Bulk records over which the overtaking ones are counted."""
BIAS = 4
"""Numbers above the expected position that are aimed at."""
CANARY = 4
"""Every how many probes one goes to an overtaking class."""
PROBE_EVERY = 40
"""Records for each probe."""


class ReplaySafeNumbering:
    """Numbers for one epoch."""

    def __init__(self, first: int = FIRST_NUMBER, window: int = 64, probe_every: int = PROBE_EVERY, **tune: float) -> None:
        self._newest = first - 1
        self._limit = end_of_epoch(first)
        self._window = window
        self._probe_every = probe_every
        self._log = SendLog(self._newest)
        self._gaps = GapReserve()
        self._lanes: dict[Dscp, Lane] = {}
        self._several = False
        self._slow: Lane | None = None
        self._base: float | None = None
        self._run = RUN
        self._block = 1
        self._in_run = 0
        self._ratio = 0.0
        self._span = 0
        self._overtakers = 0
        self._highest_over = 0
        self._since_probe = 0
        self._turn = 0
        self._ids = 0
        self._open: dict[int, Lane] = {}
        self._late = False
        self.sent = self.echoed = self.lost = self.used = self.suspected = self.jumps = 0
        self.T = dict(bias=4, slack=40, om=1.2, minr=1 / 16, up=0.5, down=0.1, margin=16, hold=2.0, block=8, pmin=12, canary=4, decay=1)
        self.T.update(tune)

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        lane = self._lanes.get(dscp)
        if lane is None or now - lane.sent_at > IDLE:
            lane = self._awake(dscp, now)
        slow = self._slow
        self._since_probe += count
        lane.unprobed += count
        if not self._several or slow is None:
            lane.sent_at = now
            lane.records += count
            numbers = self._fresh(count, now)
            if count:
                lane.highest = numbers[-1]
            return numbers
        lane.records += count
        if lane is slow:
            idle = now - lane.sent_at
            lane.sent_at = now
            if self.T['decay'] and idle > 0.005 and lane.round_trips and idle > 8 * RUN / max(1.0, self._log.pace()):
                lane.round_trips[-1] = max(self._base or 0, lane.round_trips[-1] - idle)
            self._span += count
            return self._fresh(count, now)
        lane.sent_at = now
        self._overtakers += count
        wanted = self._position(lane, slow, now)
        numbers = self._gaps.take(wanted, count)
        self.used += len(numbers)
        if len(numbers) < count:
            numbers += self._fresh(count - len(numbers), now)
        if count:
            top = numbers[-1]
            if top > lane.highest:
                lane.highest = top
                if top > self._highest_over:
                    self._highest_over = top
        return numbers

    def _position(self, lane: Lane, slow: Lane, now: float) -> int:
        own = lane.longest
        if own is None:
            own = self._base
            if own is None:
                return self._newest
        log = self._log
        delay = slow.delay
        wanted = log.newest_at(now - (delay - own)) if delay is not None and delay > own else self._newest
        self._late = False
        late = slow.silent()
        if late is not None:
            cap = log.newest_at(late.sent + own)
            if cap < wanted:
                wanted = cap
                self._late = True
        return max(wanted + int(self.T['bias']), lane.highest - int(self.T['slack']))

    def _awake(self, dscp: Dscp, now: float) -> Lane:
        lane = self._lanes.get(dscp)
        if lane is None:
            lane = self._lanes[dscp] = Lane(dscp, now)
        lane.sent_at = now
        lane.forget()
        self._several = len(self._active(now)) > 1
        return lane

    def _active(self, now: float) -> list[Lane]:
        return [lane for lane in self._lanes.values() if now - lane.sent_at <= IDLE]

    def _fresh(self, count: int, now: float) -> Sequence[int]:
        newest = self._newest
        if newest + count >= self._limit:
            raise exhausted(self._limit)
        if not self._several:
            self._newest = newest + count
            self._log.note(now, self._newest)
            return range(newest + 1, newest + 1 + count)
        numbers: list[int] = []
        while count:
            part = max(0, min(count, self._run - self._in_run))
            numbers.extend(range(newest + 1, newest + 1 + part))
            newest += part
            count -= part
            self._in_run += part
            if self._in_run >= self._run:
                self._in_run = 0
                end = min(newest + 1 + self._block, self._limit - count)
                if end > newest + 1:
                    self._gaps.add(newest + 1, end)
                    newest = end - 1
        self._newest = newest
        self._log.note(now, newest)
        if self._span >= SPAN:
            self._plan()
        return numbers

    def _plan(self) -> None:
        T = self.T
        ratio = self._overtakers / self._span
        self._ratio += (ratio - self._ratio) * (T['up'] if ratio > self._ratio else T['down'])
        self._overtakers = self._span = 0
        share = T['minr'] + T['om'] * self._ratio * (T['hold'] if self._late else 1)
        self._run = RUN if share * RUN <= T['block'] else max(1, int(T['block'] / share))
        self._block = max(1, int(self._run * share + 0.999))

    def probe_due(self, now: float) -> Dscp | None:
        if not self._several:
            return None
        self._listen(now)
        slow = self._slow
        every = self._probe_every
        if slow is not None:
            every = max(self.T['pmin'], every * (1 - slow.loss))
        if self._since_probe < every:
            return None
        active = self._active(now)
        if len(active) < 2:
            self._several = False
            return None
        waiting = [lane for lane in active if lane.unprobed]
        if len(waiting) < 2:
            return None
        self._turn += 1
        if slow is None or slow.delay is None:
            lane = max(waiting, key=lambda lane: lane.unprobed) if self._turn % 2 else min(waiting, key=lambda l: len(l.round_trips) * 1e9 + l.unprobed)
            return waiting[self._turn % len(waiting)].dscp
        others = [lane for lane in waiting if lane is not slow]
        if slow.unprobed and (self._turn % self.T['canary'] or not others):
            return slow.dscp
        return others[(self._turn // int(self.T['canary'])) % len(others)].dscp

    def _listen(self, now: float) -> None:
        slow = self._slow
        if slow is None:
            return
        for lane in self._lanes.values():
            if lane is slow or lane.longest is None or len(lane.open) < 2:
                continue
            if now - lane.open[1].sent > lane.longest * 1.25 + 0.005:
                lane.open.clear()
                lane.highest = self._newest + int(self.T['slack'])
                self.jumps += 1

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        self._ids += 1
        self._since_probe = 0
        lane = self._lanes[dscp]
        lane.opened(Probe(self._ids, now, self._newest))
        self._open[self._ids] = lane
        self.sent += 1
        if len(self._open) > 4096:
            self._open = {p.id: l for l in self._lanes.values() for p in l.open}
        return self._ids

    def probe_echoed(self, probe_id: int, now: float) -> None:
        lane = self._open.pop(probe_id, None)
        if lane is None:
            return
        was_late = self._late and lane is self._slow
        probe, lost, killed = lane.echoed(probe_id, now, self._highest_over - self._window)
        if probe is None:
            return
        self.echoed += 1
        rtt = now - probe.sent
        if self._base is None or rtt < self._base:
            self._base = rtt
        if lane is self._slow:
            if was_late:
                for other in self._lanes.values():
                    if other is not lane:
                        other.open.clear()
            self._gaps.forget_below(probe.number - 4 * self._window)
        self._choose(now)

    def _choose(self, now: float) -> None:
        active = self._active(now)
        slow = self._slow if self._slow in active else None
        if slow is None:
            slow = max(active, key=lambda lane: lane.records)
        margin = 0.0005 + self.T['margin'] / max(1.0, self._log.pace())
        best = slow
        bd = (slow.at_least(now) or 0.0) + margin
        for lane in active:
            if lane is not slow:
                d = lane.at_least(now)
                if d is not None and d > bd:
                    best, bd = lane, d
        if best is not self._slow:
            self._slow = best
            self._span = self._overtakers = 0
