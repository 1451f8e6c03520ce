"""Replay-safe numbering: records of one class overtake another's, and the receiver drops none of them.

THE TRAP. A DTLS receiver drops a record that is 64 or more below the highest number it has accepted (RFC 6347
section 4.1.2.6). A network that honours DSCP lets EF overtake a queue of 200 bulk records; with consecutive numbers
the EF record moves the window past all of them, and they are dropped when they arrive.

THE WAY OUT. The sender chooses the numbers; they must be unique, not consecutive. So bulk leaves gaps, and a record
that will overtake takes an unused number close to where the receiver will be when it arrives:

    sent      b1 b2 b3 -- b5 b6 b7 -- b9 ... b197 b198 b199 --  | now: EF is sent, and takes not 201 but the gap near b5
    queue            [b5 b6 b7 b9 ... b197 b198 b199]           |
    receiver  b1 b2 b3                                          | position: where bulk is when EF arrives

What an error costs, with e = chosen number - position: nothing from -63 to +63; below, the record itself is lost; above,
the bulk records up to e - 64 numbers ahead of the position, once. So every doubt is settled upwards.

THE MECHANISMS, each with what it buys:
1. One line of numbers. The class with the longest delay (the slow one: usually bulk, but that is learnt) takes the newest
   numbers; each other class looks up its place by how much shorter its own delay is, and stays near what overtaking
   classes took before it.
2. Gaps as needed. RUN bulk numbers, then a block of unused ones: a sixteenth of the line at least, and SURPLUS times what
   has lately been overtaking. Every gap is paid for with tolerance, as the window counts numbers: at 8 numbers for each
   record (a fixed stride) 64 numbers are 8 records, here they are 56 beside a call. Where the gaps near the place are
   used up the next one above serves. Without a backlog nothing overtakes, and numbers are consecutive but for the
   sixteenth.
3. Probes (echoed DPD requests) in the slow class give the position (position.py has the theory), about one for
   every PROBE_EVERY records; more, up to one for LEAST_PROBE_EVERY, when the queue's tail drops some. The client sends a
   probe in front of what it is about to send: behind a burst it would always find the queue full.
4. Late probes. A probe that is not back in time is lost or late; a few in a row are late, so the receiver is not
   past the oldest of them yet, and overtaking records wait there (in numbers, not in time). This catches a queue that grows
   faster than echoes come, and breaks the vicious circle in which bulk dropped as replays takes its probes along.
5. Canaries. Every CANARY-th probe goes to an overtaking class, with a number chosen like its records'. Two in a
   row without echo say that the class itself is being dropped: it takes the newest numbers from there on, at
   bulk's expense.

THE FIRST MOMENT. When a class begins to send beside a queue that is already long, nobody knows how long, and its records
take the newest numbers until its first echo: what is queued then is lost (the one time), as it is with plain numbering
all the time. When the queue builds up while both send, there is no such loss.

FALLBACK. One class, no echo, or no backlog to speak of: numbers as if plain. Probes only while two classes send, and
only in a class that has sent since its last one.

All of this is arithmetic on what the caller tells: no I/O, no clock. `now` is any monotonic time in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.gaps import GapReserve
from qosctl.dtls.lanes import Lane, Probe
from qosctl.dtls.numbering import FIRST_NUMBER, end_of_epoch, exhausted
from qosctl.dtls.position import Position
from qosctl.dtls.sendlog import STEP, SendLog

WINDOW = 64
"""Numbers that a receiver is sure to remember (RFC 6347 recommends 64, ocserv has 64)."""

IDLE = 10.0
"""Seconds without a record after which a class no longer counts, and what is known of it is forgotten."""
RUN = 16
"""Consecutive numbers between two gaps, at the most."""
BLOCK = 8
"""Numbers in one gap, unless a single bulk record needs more."""
LEAST_GAPS = 1 / 16
"""Gap numbers for each number given to bulk, when next to nothing overtakes."""
SURPLUS = 1.2
"""Gap numbers for each overtaking record."""
CATCH_UP = 2.0
"""Times as many gaps while overtaking records wait at a late probe, so that they climb slower than bulk does."""
MOST_OVERTAKING = 12.0
"""Overtaking records for each bulk record beyond which no more gaps are left."""
SPAN = 32
"""Bulk records over which the overtaking ones are counted."""
NEAR = 12
"""A place this close below the newest number is as good as the newest one."""
SAME_QUEUE = 0.25
"""A class that saves less than this share of bulk's queueing stands in the same queue, and overtakes nothing."""
SAME_TIME = 0.002
"""Seconds of difference between the delays of overtaking classes that are within their noise."""
BIAS = 4
"""Numbers above the expected position that are aimed at."""
STEP_BACK = 40
"""Numbers that a record may stay below the highest one overtaking before it: the window's rest is for errors."""
PROBE_EVERY = 40
"""Records for each probe: 0.15 % of the bytes of full-size records, below 1 % down to 200 bytes."""
LEAST_PROBE_EVERY = 12
CANARY = 4
MUTE_AFTER = 32
"""Probes in a row without any echo (and MUTE_SECONDS) after which the server is taken for one that does not echo."""
MUTE_SECONDS = 3.0
MUTE_FOR = 60.0
"""Seconds without probes then."""


@dataclass(frozen=True)
class Backlog:
    """Estimated queue of one class in the network."""

    records: int
    milliseconds: float


@dataclass(frozen=True)
class Snapshot:
    """The state of replay-safe numbering, for people and metrics. Counts are cumulative."""

    mode: Literal["plain", "safe"]
    """safe: records of some class are taking numbers behind the newest one."""
    slow: Dscp | None
    """The class that the others overtake, None while it is not known or only one sends."""
    backlog: Mapping[Dscp, Backlog]
    """By class, for those that sent lately."""
    probes_sent: int
    probes_echoed: int
    probes_lost: int
    gaps_used: int
    gaps_left: int
    """Numbers in reserve."""
    suspected_replay_losses: int
    """Records that the receiver has probably dropped, judged by the fate of the probes among them."""


class ReplaySafeNumbering:
    """Owns the numbers of one epoch; see the head of this module, and `numbering.Numbering` for `take`."""

    def __init__(self, first: int = FIRST_NUMBER, window: int = WINDOW) -> None:
        self._newest = first - 1
        self._limit = end_of_epoch(first)
        self._window = window
        self._log = SendLog(self._newest)
        self._note_at = first
        self._gaps = GapReserve()
        self._lanes: dict[Dscp, Lane] = {}
        self._several = False  # whether more than one class sends
        self._slow: Lane | None = None
        self._position = Position(self._log)
        self._base: float | None = None  # the shortest round trip of all, in seconds
        self._refresh = 0.0  # seconds that a position holds good for
        self._pause = 0.005  # seconds without bulk that are more than the usual spacing of its records
        self._waiting = False  # whether overtaking records wait at a late probe
        self._highest_overtaking = 0

        self._run, self._block, self._in_run = RUN, 1, 0
        self._ratio = 0.0  # overtaking records for each bulk record
        self._span_bulk = self._span_overtaking = 0
        self._bulk = self._overtaking = 0  # records since the slow class became it
        self._behind = 0.0  # how far below the newest number the others lately aimed

        self._since_probe = self._turn = self._next_id = 0
        self._open: dict[int, Lane] = {}
        self._unheard = 0  # probes since the last echo
        self._heard_at: float | None = None  # or the first probe's time
        self._mute_until = float("-inf")
        self._probes_sent = self._probes_echoed = self._probes_lost = 0
        self._gaps_used = self._suspected = 0

    # Numbers

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        """Return `count` unused numbers for records of one class; see numbering.Numbering.take."""
        if count <= 0:
            return ()
        lane = self._lanes.get(dscp)
        if lane is None or now - lane.sent_at > IDLE:
            lane = self._wake(dscp, now)
        lane.records += count
        lane.unprobed += count
        self._since_probe += count
        if not self._several:
            lane.sent_at = now
            numbers = self._consecutive(count, now)
            lane.highest = numbers[-1]
            return numbers
        if lane is self._slow or self._slow is None:
            self._bulk += count
            self._span_bulk += count
            if now - lane.sent_at > self._pause:  # the queue drained meanwhile
                lane.paused(now - lane.sent_at, self._base or 0.0)
            lane.sent_at = now
            fresh = self._with_gaps(count, now)
            lane.highest = fresh[-1]
            return fresh
        lane.sent_at = now
        return self._overtake(lane, self._slow, count, now)

    def _overtake(self, lane: Lane, slow: Lane, count: int, now: float) -> Sequence[int]:
        self._overtaking += count
        self._span_overtaking += count
        if now >= lane.wanted_until:
            lane.wanted = self._place(lane, slow, now)
            lane.wanted_until = now + self._refresh
        wanted = lane.wanted
        for other in lane.before:
            wanted = max(wanted, other.highest - STEP_BACK)
        behind = self._newest - wanted
        self._behind += (behind - self._behind) * 0.3
        if behind < NEAR:
            numbers = self._with_gaps(count, now)
        else:
            numbers = self._gaps.take(wanted, count)
            self._gaps_used += len(numbers)
            if len(numbers) < count:
                numbers += self._with_gaps(count - len(numbers), now)
        top = numbers[-1]
        if top > lane.highest:
            lane.highest = top
            self._highest_overtaking = max(self._highest_overtaking, top)
        return numbers

    def _place(self, lane: Lane, slow: Lane, now: float) -> int:
        """Return the number that a record of an overtaking class should have."""
        own = lane.longest
        if own is None:
            own = self._base
        if own is None:
            return self._newest
        delay = slow.delay
        if delay is None or delay - own < SAME_QUEUE * (delay - (self._base or 0.0)):
            place = self._newest
        else:
            place = self._position.at_arrival(now, delay - own, own, self._bulk, self._overtaking)
        late = slow.late()
        self._waiting = False
        if late is not None:
            not_past = self._log.newest_at(late.sent + own)
            if not_past < place:
                place = not_past
                self._waiting = True
        return place + BIAS

    def _consecutive(self, count: int, now: float) -> range:
        start = self._newest + 1
        if start + count > self._limit:
            raise exhausted(self._limit)
        self._newest = start + count - 1
        if self._newest >= self._note_at:
            self._note(now)
        return range(start, start + count)

    def _with_gaps(self, count: int, now: float) -> list[int]:
        start = self._newest + 1
        if start + count > self._limit:
            raise exhausted(self._limit)
        if count == 1 and self._in_run < self._run - 1:  # the common case of a record by itself
            self._in_run += 1
            self._newest = start
            if start >= self._note_at:
                self._note(now)
            return [start]
        numbers: list[int] = []
        while count:
            part = min(count, max(0, self._run - self._in_run))
            numbers.extend(range(start, start + part))
            start += part
            count -= part
            self._in_run += part
            if self._in_run >= self._run:
                self._in_run = 0
                end = min(start + self._block, self._limit - count)
                self._gaps.add(start, end)
                start = end
        self._newest = start - 1
        if start > self._note_at:
            self._note(now)
            if self._span_bulk >= SPAN:
                self._plan_gaps()
        return numbers

    def _note(self, now: float) -> None:
        self._note_at = self._newest + STEP
        self._log.note(now, self._newest, self._bulk, self._overtaking)

    def _plan_gaps(self) -> None:
        """Decide how many numbers to leave free, from what has lately been overtaking: up fast, down slowly."""
        ratio = min(MOST_OVERTAKING, self._span_overtaking / self._span_bulk)
        self._span_bulk = self._span_overtaking = 0
        self._ratio += (ratio - self._ratio) * (0.5 if ratio > self._ratio else 0.1)
        share = LEAST_GAPS
        if self._behind > NEAR * 2 / 3:
            share += SURPLUS * self._ratio * (CATCH_UP if self._waiting else 1.0)
        self._run = RUN if share * RUN <= BLOCK else max(1, int(BLOCK / share))
        self._block = max(1, ceil(self._run * share))

    # Classes

    def _wake(self, dscp: Dscp, now: float) -> Lane:
        """Begin, or begin anew, with a class that has not sent for long."""
        lane = self._lanes.get(dscp)
        if lane is None:
            lane = self._lanes[dscp] = Lane(dscp, now)
        lane.sent_at = lane.woken_at = now
        lane.forget()
        self._several = len(self._active(now)) > 1
        return lane

    def _active(self, now: float) -> list[Lane]:
        return [lane for lane in self._lanes.values() if now - lane.sent_at <= IDLE]

    def _choose_slow(self, now: float) -> None:
        """Make the class with the longest delay the slow one; while delays are alike, leave it, or take the busiest."""
        active = self._active(now)
        current = self._slow if self._slow in active else max(active, key=lambda lane: lane.records, default=None)
        if current is None:
            return
        pace = max(1.0, self._log.pace())
        self._refresh = min(0.02, 8 / pace)
        self._pause = max(0.005, RUN * self._refresh)
        longest = (current.at_least(now) or 0.0) + 0.0005 + RUN / pace
        for lane in active:
            delay = lane.at_least(now)
            if lane is not current and delay is not None and delay > longest:
                current, longest = lane, delay
        for lane in active:
            own = lane.longest or 0.0
            lane.before = [
                other for other in active
                if other is lane or (other is not current and (other.shortest or 0.0) <= own + SAME_TIME)
            ]  # fmt: skip
        if current is not self._slow:
            self._slow = current
            self._position = Position(self._log)
            self._span_bulk = self._span_overtaking = 0

    # Probes

    def probe_due(self, now: float) -> Dscp | None:
        """Return the class in which to send a probe now, or None. Ask before sending what is ready, not after."""
        if not self._several or now < self._mute_until:
            return None
        slow = self._slow
        self._watch_canaries(now)
        every: float = LEAST_PROBE_EVERY  # while the position is unknown
        if slow is not None and slow.delay is not None:
            every = max(LEAST_PROBE_EVERY, PROBE_EVERY * (1 - slow.loss))
        if self._since_probe < every:
            return None
        active = self._active(now)
        self._several = len(active) > 1
        ready = [lane for lane in active if lane.unprobed]
        if not self._several or len(ready) < 2 or self._mute(now):
            return None
        self._turn += 1
        if slow is None or slow.delay is None:
            return ready[self._turn % len(ready)].dscp
        others = [lane for lane in ready if lane is not slow]
        if slow.unprobed and self._turn % CANARY:
            return slow.dscp
        return others[self._turn // CANARY % len(others)].dscp

    def next_probe_at(self, now: float) -> float | None:  # noqa: ARG002  (the loop asks every numbering that probes)
        """Return None: probes ride in front of traffic, so there is never one to wake up for."""
        return None

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        """Return the id for a probe that is about to be sent in a class; the caller takes its number like any other."""
        lane = self._lanes.get(dscp)
        if lane is None:
            lane = self._wake(dscp, now)
        self._next_id += 1
        lane.opened(Probe(self._next_id, now, self._newest, self._bulk, lane.records))
        self._open[self._next_id] = lane
        self._since_probe = 0
        self._probes_sent += 1
        self._unheard += 1
        if self._heard_at is None:
            self._heard_at = now
        if len(self._open) > 2 * sum(len(lane.open) for lane in self._lanes.values()) + MUTE_AFTER:
            self._open = {probe.id: lane for lane in self._lanes.values() for probe in lane.open}
        return self._next_id

    def probe_echoed(self, probe: int, now: float) -> None:
        """Learn that a probe arrived; an id that nobody waits for changes nothing."""
        lane = self._open.pop(probe, None)
        if lane is None:
            return
        settled = lane.echoed(probe, now, self._highest_overtaking - self._window)
        if settled is None:
            return
        self._probes_echoed += 1
        self._probes_lost += settled.lost
        self._suspected += settled.replayed
        self._unheard, self._heard_at = 0, now
        round_trip = now - settled.probe.sent
        if self._base is None or round_trip < self._base:
            self._base = round_trip
        if lane is self._slow:
            if self._waiting:  # canaries sent while waiting say nothing about the place that is known now
                for other in self._lanes.values():
                    if other is not lane:
                        other.excuse()
            self._position.echoed(now, settled.probe.bulk, round_trip, self._base)
            self._gaps.forget_below(settled.probe.number - 4 * self._window)
        for other in self._lanes.values():
            other.wanted_until = now
        self._choose_slow(now)

    def _watch_canaries(self, now: float) -> None:
        """Send a class to the newest numbers when two of its probes in a row are not back."""
        for lane in self._lanes.values():
            if lane is not self._slow and lane.overdue(now):
                self._suspected += lane.records - lane.open[0].records
                lane.excuse()
                lane.highest = self._newest + STEP_BACK
                lane.wanted_until = now

    def _mute(self, now: float) -> bool:
        """Give up for a while, and number plainly, when nothing is echoed."""
        patience = MUTE_SECONDS + max((2 * (lane.longest or 0.0) for lane in self._lanes.values()), default=0.0)
        if self._unheard < MUTE_AFTER or self._heard_at is None or now - self._heard_at < patience:
            return False
        for lane in self._lanes.values():
            self._probes_lost += len(lane.open)
            lane.forget()
        self._open.clear()
        self._slow = self._base = self._heard_at = None
        self._unheard = 0
        self._waiting = False
        self._mute_until = now + MUTE_FOR
        return True

    # For people

    def snapshot(self, now: float) -> Snapshot:
        """Return the present state."""
        active = self._active(now)
        several = len(active) > 1
        return Snapshot(
            mode="safe" if several and self._slow is not None and self._behind >= NEAR else "plain",
            slow=self._slow.dscp if several and self._slow is not None else None,
            backlog={lane.dscp: self._backlog(lane, now) for lane in active},
            probes_sent=self._probes_sent,
            probes_echoed=self._probes_echoed,
            probes_lost=self._probes_lost,
            gaps_used=self._gaps_used,
            gaps_left=self._gaps.left,
            suspected_replay_losses=self._suspected,
        )

    def _backlog(self, lane: Lane, now: float) -> Backlog:
        delay = lane.at_least(now)
        if delay is None or self._base is None:
            return Backlog(0, 0.0)
        queued = max(0.0, delay - self._base)
        if lane is self._slow:
            return Backlog(self._bulk - self._log.bulk_at(now - queued), queued * 1000)
        return Backlog(round(queued * lane.records / max(IDLE, now - lane.woken_at)), queued * 1000)
