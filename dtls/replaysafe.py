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
1. One line of numbers (line.py). The slow class, and every class that does not overtake it, takes new ones. Gaps are left
   as what overtakes needs them; one in sixteen when nothing does, so that the first record that does finds one.
2. Probes (echoed DPD requests; rounds.py says when) tell each class's round trip, and with it the position (position.py).
3. Order decides who overtakes whom, not clocks. Probes of all classes are sent side by side, and a class is placed
   behind the newest number only when a probe of it came back before an older one of the slow class. A pause of this
   program, or of the server, delays both and so proves nothing; and a network that does not reorder is left alone.
4. Silence. Probes of the slow class that are not back while younger ones of others are, are late: the receiver is not
   past the first of them, and overtaking records wait there. This catches a queue that grows faster than echoes come, and
   breaks the circle in which bulk dropped as replays takes its probes along. Probes of a placed class that are
   not back say that the class itself is being dropped: it takes new numbers again, at bulk's expense.
5. Scouts. While a class sends alone and queues, a probe of another class goes along now and then, numbered as if
   it overtook. Where it does, the first packet of a call is placed right from the start.

WHY IT CANNOT LOCK UP. Nothing is numbered behind the newest without an echo that proved it, and that stays under
test: whichever class is dropped as replays while another overtakes it falls silent, and a class that falls silent is either
raised to new numbers (then it is received) or waited for (then it is received).

FALLBACK. One class, no echo, or none that overtakes: plain numbers but for the sixteenth.

All of this is arithmetic on what the caller tells: no I/O, no clock. `now` is any monotonic time in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from qosctl.bpf.dscp import EF, Dscp
from qosctl.dtls.backlog import Backlog, Snapshot
from qosctl.dtls.lanes import Lane, Probe
from qosctl.dtls.line import RUN, Line
from qosctl.dtls.numbering import FIRST_NUMBER
from qosctl.dtls.position import Position
from qosctl.dtls.rounds import Pace, Rounds

WINDOW = 64
"""Numbers that a receiver is sure to remember (RFC 6347 recommends 64, ocserv has 64)."""

SENDING = 1.0
"""Seconds without a record after which a class no longer counts as sending."""
IDLE = 10.0
"""Seconds without a record after which what is known of a class is forgotten."""
NEAR = 12
"""A place this close below the newest number is as good as the newest one."""
SAME_TIME = 0.002
"""Seconds of difference between the delays of overtaking classes that are within their noise."""
BIAS = 4
"""Numbers above the expected position that are aimed at."""
STEP_BACK = 40
"""Numbers that a record may stay below the highest one overtaking before it: the window's rest is for errors."""
SCOUTED = (EF, Dscp.parse("AF41"))
"""Classes worth a scout before they have ever sent: calls and video."""
QUEUED = 0.003
"""Seconds above the shortest round trip that are a queue: worth a scout."""
OVERDUE = 1.5
"""Times its longest recent round trip (and OVERDUE_S) that a placed class may be silent."""
OVERDUE_S = 0.01
TWICE = 2
"""One probe may be lost; two in a row are taken for news."""
MUTE_AFTER = 16
"""Probes in a row without any echo (and MUTE_SECONDS) after which the server is taken for one that does not echo."""
MUTE_SECONDS = 3.0


class ReplaySafeNumbering:
    """Owns the numbers of one epoch; see the head of this module, and `numbering.Numbering` for `take`."""

    def __init__(self, first: int = FIRST_NUMBER, window: int = WINDOW) -> None:
        self._window = window
        self._line = Line(first)
        self._lanes: dict[Dscp, Lane] = {}
        self._slow: Lane | None = None
        self._position = Position(self._line.log)
        self._base: float | None = None  # the shortest round trip of all, in seconds
        self._refresh = 0.0  # seconds that a position holds good for
        self._waiting = False  # whether overtaking records wait at a late probe
        self._highest_overtaking = 0

        self._looked = self._looked_before = float("-inf")

        self._rounds = Rounds()
        self._next_id = 0
        self._unheard = 0  # probes since the last echo
        self._heard_at = float("-inf")  # or the first probe's time
        self._probes_sent = self._probes_echoed = self._probes_lost = 0
        self._gaps_used = self._suspected = 0

    # Numbers

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        """Return `count` unused numbers for records of one class; see numbering.Numbering.take."""
        if count <= 0:
            return ()
        lane = self._lanes.get(dscp)
        if lane is None or (now - lane.sent_at > SENDING and not lane.trial):
            lane = self._wake(dscp, now)
        lane.records += count
        if (lane.placed or lane.trial) and self._slow is not None:
            return self._overtake(lane, self._slow, count, now)
        lane.sent_at = now
        numbers = self._line.fresh(count, now, slow=lane is self._slow)
        lane.highest = numbers[-1]
        return numbers

    def _overtake(self, lane: Lane, slow: Lane, count: int, now: float) -> Sequence[int]:
        line = self._line
        if now >= lane.wanted_until:
            line.note(now)
            lane.wanted = self._place(lane, slow, now)
            lane.wanted_until = now + self._refresh
        wanted = lane.wanted
        for other in lane.before:
            wanted = max(wanted, other.highest - STEP_BACK)
        if lane.trial:
            lane.trial = False
        else:
            lane.sent_at = now
        if line.newest - wanted < NEAR:
            numbers = line.fresh(count, now, slow=False)
        else:
            found = line.between(wanted, count)
            self._gaps_used += len(found)
            numbers = found if len(found) == count else [*found, *line.more(count - len(found))]
        top = numbers[-1]
        if top > lane.highest:
            lane.highest = top
            self._highest_overtaking = max(self._highest_overtaking, top)
        return numbers

    def _place(self, lane: Lane, slow: Lane, now: float) -> int:
        """Return the number that a record of an overtaking class should have."""
        own = lane.longest
        if own is None:
            own = self._base or 0.0
        line = self._line
        delay, place = slow.delay, line.newest
        if delay is not None:
            place = self._position.at_arrival(now, delay - own, own, line.slow, line.others)
        late = slow.late()
        self._waiting = False
        if late is not None:
            not_past = line.log.newest_at(late.sent + own)
            if not_past < place:
                place = not_past
                self._waiting = True
        return place + BIAS

    # Classes

    def _wake(self, dscp: Dscp, now: float) -> Lane:
        """Begin with a class, or begin anew after a while without it."""
        lane = self._lanes.get(dscp)
        if lane is None:
            lane = self._lanes[dscp] = Lane(dscp, now, now)
        else:
            if now - lane.sent_at > IDLE and not lane.placed:
                lane.forget()
            lane.woken_at = now
        if self._slow is None or now - self._slow.sent_at > SENDING:
            self._make_slow(lane, now)
        self._rounds.hurry()
        return lane

    def _make_slow(self, lane: Lane, now: float) -> None:
        if lane is self._slow:
            return
        self._slow = lane
        self._position = Position(self._line.log)
        for each in self._lanes.values():
            each.placed = each.trial = False
            each.overtaken = 0
        self._plan(now)

    def _plan(self, now: float) -> None:
        """Adapt to what the last echo told."""
        placed = [lane for lane in self._lanes.values() if lane.placed]
        self._waiting = self._waiting and bool(placed)
        overtaken = any(now - lane.sent_at <= SENDING for lane in placed)
        self._line.plan(overtaken=overtaken, waiting=self._waiting)
        self._refresh = min(0.001, 8 / max(1.0, self._line.log.pace()))
        for lane in placed:
            own = lane.longest or 0.0
            lane.before = [
                other for other in placed if other is lane or (other.shortest or 0.0) <= own + SAME_TIME
            ]  # fmt: skip
            lane.wanted_until = 0.0

    # Probes

    def probe_due(self, now: float) -> Dscp | None:
        """Return the class in which to send a probe now, or None. Ask before sending what is ready, not after."""
        rounds, slow = self._rounds, self._slow
        self._tick(now)
        if slow is None or not rounds.waiting(now):
            return None
        if rounds.due() is None:
            self._watch_silence(slow, now)
            slow = self._slow or slow
            sending = [lane for lane in self._lanes.values() if now - lane.sent_at <= SENDING]
            pace = Pace.WATCH
            if self._mute(now):
                pace = Pace.MUTE
            elif len(sending) < TWICE:
                pace = Pace.ALONE
            elif any(lane.placed for lane in sending):
                pace = Pace.DENSE
            others = [lane for lane in sending if lane is not slow]
            records = self._line.slow + self._line.others
            rounds.begin(now, records=records, pace=pace, slow=slow, others=others, scout=self._scout(slow))
        lane = rounds.due()
        return None if lane is None else lane.dscp

    def next_probe_at(self, now: float) -> float | None:  # noqa: ARG002  (the loop asks every numbering that probes)
        """Return None: probes ride in front of traffic, so there is never one to wake up for."""
        return None

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        """Return the id for a probe that is about to be sent in a class; the caller takes its number like any other."""
        lane = self._lanes.get(dscp)
        if lane is None:
            lane = self._wake(dscp, now)
        lane.trial = lane.records <= lane.probed and lane is not self._slow
        self._rounds.sent()
        self._next_id += 1
        self._line.note(now)
        lane.opened(Probe(self._next_id, now, self._line.newest, lane.records, not (lane.placed or lane.trial)))
        self._probes_sent += 1
        if not self._unheard:
            self._heard_at = now
        self._unheard += 1
        return self._next_id

    def probe_echoed(self, probe: int, now: float) -> None:
        """Learn that a probe arrived; an id that nobody waits for changes nothing."""
        for lane in self._lanes.values():
            settled = lane.echoed(probe, now, self._highest_overtaking - self._window)
            if settled is not None:
                break
        else:
            return
        self._probes_echoed += 1
        self._probes_lost += settled.lost
        self._suspected += settled.replayed
        self._unheard, self._heard_at = 0, now
        round_trip = now - settled.probe.sent
        earliest = self._tick(now)
        if self._base is None or round_trip < self._base:
            self._base = round_trip
        slow = self._slow
        if lane is slow:
            self._position.echoed(now, self._line.log.slow_at(settled.probe.sent), round_trip, self._base)
            self._line.gaps.forget_below(settled.probe.number - 4 * self._window)
            self._judge(lane, probe)
        elif slow is not None:
            if slow.echoed_id > probe:
                lane.overtaken += 1
            elif slow.open and slow.open[0].id < probe:
                lane.overtaken = 0
            if lane.overtaken >= TWICE:
                self._make_slow(lane, now)
            elif not lane.placed and slow.late_for(probe):
                lane.placed = True
        self._plan(now)

    def _tick(self, now: float) -> float:
        """Return when the caller last looked before `now`: what it finds now may have been there since."""
        if now > self._looked:
            self._looked_before, self._looked = self._looked, now
        return self._looked_before

    def _judge(self, slow: Lane, probe: int) -> None:
        """Learn from an echo of the slow class who overtook that probe of it, and who does not overtake."""
        waited = self._waiting
        gain = RUN / max(1.0, self._line.log.pace())
        for lane in self._lanes.values():
            if lane is slow:
                continue
            if waited:  # probes sent while waiting say nothing about the place that is known now
                lane.excuse()
            ahead = (slow.delay or 0.0) - (lane.longest or 0.0)
            if lane.echoed_id > max(probe, lane.excused) and ahead > gain:
                lane.placed = True
            elif lane.placed and (ahead <= gain or sum(each.id < probe for each in lane.dropped()) >= TWICE):
                self._raise(lane)

    def _raise(self, lane: Lane) -> None:
        """Give a class new numbers, for it does not overtake or is dropped itself."""
        lane.placed = False
        lane.excuse()

    def _watch_silence(self, slow: Lane, now: float) -> None:
        """Raise placed classes that are silent; find a class that is overtaken by the one taken for the slow one."""
        for lane in self._lanes.values():
            if lane is slow:
                continue
            if lane.placed:
                dropped = lane.dropped()
                due = self._heard_at - OVERDUE * (lane.longest or 0.0) - OVERDUE_S
                if len(dropped) >= TWICE and dropped[1].sent < due:
                    self._suspected += lane.records - dropped[0].records
                    self._raise(lane)
            elif lane.late_for(slow.echoed_id):
                self._make_slow(lane, now)
                return

    def _scout(self, slow: Lane) -> Lane | None:
        """Return a class that may overtake soon, each in its turn, if there is something to overtake."""
        if slow.delay is None or slow.delay - (self._base or 0.0) < QUEUED:
            return None
        for dscp in SCOUTED:
            if dscp not in self._lanes:
                self._lanes[dscp] = Lane(dscp, float("-inf"))
        silent = (lane for lane in self._lanes.values() if lane is not slow and lane.records <= lane.probed)
        return min(silent, key=lambda lane: lane.asked, default=None)

    def _mute(self, now: float) -> bool:
        """Number plainly, and probe next to never, while nothing is echoed."""
        patience = MUTE_SECONDS + max((2 * (lane.longest or 0.0) for lane in self._lanes.values()), default=0.0)
        if self._unheard < MUTE_AFTER or now - self._heard_at < patience:
            return False
        for lane in self._lanes.values():
            self._probes_lost += max(0, len(lane.open) - TWICE)
            while len(lane.open) > TWICE:  # they may be the first to come back
                lane.open.popleft()
            lane.placed = lane.trial = False
            lane.round_trips.clear()
        self._base = None
        self._waiting = False
        self._line.plan(overtaken=False, waiting=False)
        return True

    # For people

    def snapshot(self, now: float) -> Snapshot:
        """Return the present state."""
        active = [lane for lane in self._lanes.values() if now - lane.sent_at <= IDLE]
        safe = any(lane.placed for lane in active)
        return Snapshot(
            mode="safe" if safe else "plain",
            slow=self._slow.dscp if safe and self._slow is not None else None,
            backlog={lane.dscp: self._backlog(lane, now) for lane in active},
            probes_sent=self._probes_sent,
            probes_echoed=self._probes_echoed,
            probes_lost=self._probes_lost,
            gaps_used=self._gaps_used,
            gaps_left=self._line.gaps.left,
            suspected_replay_losses=self._suspected,
        )

    def _backlog(self, lane: Lane, now: float) -> Backlog:
        delay, late = lane.delay, lane.late()
        if late is not None:
            delay = max(delay or 0.0, now - late.sent)
        if delay is None or self._base is None:
            return Backlog(0, 0.0)
        queued = max(0.0, delay - self._base)
        if lane is self._slow:
            return Backlog(self._line.slow - self._line.log.slow_at(now - queued), queued * 1000)
        return Backlog(round(queued * lane.records / max(IDLE, now - lane.woken_at)), queued * 1000)
