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
   as what overtakes needs them; a spare fifth when nothing does, a third behind a queue, so that the first records
   that do find some.
2. Probes (echoed DPD requests; rounds.py) tell each class's round trip, and with it the position (position.py).
3. Order decides who overtakes whom, not clocks (standing.py). Probes of all classes are sent side by side; a class is
   placed behind the newest number only when a probe of it came back before an older one of the slow class. A pause of
   this program or of the server delays both and proves nothing; a network that does not reorder is left alone.
4. Silence (silence.py). Probes of the slow class that are not back are late or lost: if late, the receiver is not past
   the first of them. Where few are lost, one or two lower a place by as much as does no harm; where more are late than
   can be lost, overtaking records wait there. This catches a queue that grows faster than echoes come, and the burst
   behind a pause of this program; and it breaks the circle in which bulk dropped as replays takes its probes along.
   Probes of a placed class that are not back say that the class itself is being dropped: it takes new numbers again,
   at bulk's expense.
5. Scouts. While a class queues, a probe of a class that does not send goes along now and then, numbered as if it
   overtook. Where it does, the first packet of a call is placed right from the start.

WHY IT CANNOT LOCK UP. Nothing is numbered behind the newest without an echo that proved it, and whichever class is
dropped as replays falls silent: then it is raised to new numbers, or waited for, and either way received again.

FALLBACK. One class, no echo, or none that overtakes: plain numbers but for the spare ones.

All of this is arithmetic on what the caller tells: no I/O, no clock. `now` is any monotonic time in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.lanes import Lane, Probe
from qosctl.dtls.numbering.line import Line
from qosctl.dtls.numbering.plain import FIRST_NUMBER
from qosctl.dtls.numbering.rounds import Pace, Rounds
from qosctl.dtls.numbering.silence import held
from qosctl.dtls.numbering.snapshot import Backlog, Snapshot
from qosctl.dtls.numbering.standing import IDLE, SENDING, Standing

WINDOW = 64
"""Numbers that a receiver is sure to remember (RFC 6347 recommends 64, ocserv has 64)."""
NEAR = 12
"""A place this close below the newest number is as good as the newest one."""
BIAS = 4
"""Numbers above the expected position that are aimed at."""
STEP_BACK = 40
"""Numbers that a record may stay below the highest one overtaking before it: the window's rest is for errors."""
BELOW = 24
"""Numbers under the place that a gap may be taken from, while positions are known well."""
MUTE_AFTER, MUTE_SECONDS = 16, 3.0
"""Probes and seconds in a row without any echo after which the server is taken for one that does not echo."""


class ReplaySafeNumbering:
    """Owns the numbers of one epoch; see the head of this module, and `numbering.Numbering` for `take`."""

    def __init__(self, first: int = FIRST_NUMBER, window: int = WINDOW) -> None:
        self._window = window
        self._line = Line(first)
        self._standing = Standing(self._line)
        self._lanes = self._standing.lanes
        self._rounds = Rounds()
        self._looked = self._looked_before = float("-inf")  # when the caller last asked for probes or brought an echo
        self._next_id = 0
        self._unheard = 0  # probes since the last echo
        self._heard_at = float("-inf")  # or the first probe's time
        self._probes_sent = self._probes_echoed = self._probes_lost = 0
        self._gaps_used = self._suspected = 0

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        """Return `count` unused numbers for records of one class; see numbering.Numbering.take."""
        if count <= 0:
            return ()
        lane = self._lanes.get(dscp)
        if lane is None or (now - lane.sent_at > SENDING and not lane.trial):
            lane = self._standing.wake(dscp, now)
            self._rounds.hurry()
        lane.records += count
        slow = self._standing.slow
        if (lane.placed or lane.trial) and slow is not None:
            return self._overtake(lane, slow, count, now)
        lane.sent_at = now
        line = self._line
        numbers = line.fresh(count, now)
        if lane is slow:
            line.slow += count
        else:
            line.others += count
        lane.highest = line.newest
        return numbers

    @property
    def newest(self) -> int:
        """The highest number used or left free in a gap, or what lies below the first."""
        return self._line.newest

    def _overtake(self, lane: Lane, slow: Lane, count: int, now: float) -> Sequence[int]:
        line = self._line
        if now >= lane.wanted_until:
            line.note(now)
            lane.wanted = self._place(lane, slow, now)
            lane.wanted_until = now + self._standing.refresh
        wanted = lane.wanted
        for other in lane.before:
            wanted = max(wanted, other.highest - STEP_BACK)
        if lane.trial:
            lane.trial = False
        else:
            lane.sent_at = now
        if line.newest - wanted < NEAR:
            numbers = line.fresh(count, now)
            line.others += count
        else:
            found = line.between(wanted, count, BELOW if slow.calm else 0)
            self._gaps_used += len(found)
            numbers = found if len(found) == count else [*found, *line.more(count - len(found))]
        lane.highest = max(lane.highest, numbers[-1])
        line.overtook = max(line.overtook, lane.highest)
        return numbers

    def _place(self, lane: Lane, slow: Lane, now: float) -> int:
        """Return the number that a record of an overtaking class should have."""
        own = lane.longest or self._standing.base or 0.0
        line = self._line
        delay, place = slow.delay, line.newest
        if delay is not None:
            place = self._standing.position.at_arrival(now, delay - own, own, line.slow, line.others)
        place, self._standing.waiting = held(place, slow, own, line.log, self._standing.position.capacity)
        return place + BIAS

    # Probes

    def probe_due(self, now: float) -> Dscp | None:
        """Return the class in which to send a probe now, or None. Ask before sending what is ready, not after."""
        rounds, standing = self._rounds, self._standing
        self._look(now)
        if standing.slow is None or not rounds.waiting(now, self._line.newest):
            return None
        if rounds.due() is None:
            standing.watch_silence(now, self._heard_at)
            slow = standing.slow
            sending = standing.sending(now)
            pace = Pace.WATCH
            if self._mute(now):
                pace = Pace.MUTE
            elif len(sending) <= 1:
                pace = Pace.READY if standing.queued() else Pace.ALONE
            elif any(lane.placed for lane in sending):
                pace = Pace.DENSE
            records = self._line.slow + self._line.others
            others = [lane for lane in sending if lane is not slow]
            rounds.begin(
                now, records=records, numbers=self._line.newest, pace=pace, slow=slow, others=others, scout=standing.scout()
            )
        return None if (lane := rounds.due()) is None else lane.dscp

    def next_probe_at(self, now: float) -> float | None:  # noqa: ARG002  (the loop asks every numbering that probes)
        """Return None: probes ride in front of traffic, so there is never one to wake up for."""
        return None

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        """Return the id for a probe that is about to be sent in a class; the caller takes its number like any other."""
        lane = self._lanes.get(dscp)
        if lane is None:
            lane = self._standing.wake(dscp, now)
        lane.trial = lane.records <= lane.probed and lane is not self._standing.slow
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
        earliest = self._look(now)
        line = self._line
        dead_below = line.overtook - self._window
        arrived = line.log.highest_at(now - (self._standing.base or 0.0)) - self._window
        for lane in self._lanes.values():
            settled = lane.echoed(probe, earliest, now, dead_below, arrived)
            if settled is not None:
                break
        else:
            return
        standing = self._standing
        self._probes_echoed += 1
        self._probes_lost += settled.lost
        self._suspected += settled.replayed
        self._unheard, self._heard_at = 0, now
        sent, round_trip = settled.probe.sent, lane.round_trips[-1]
        if standing.base is None or round_trip < standing.base:
            standing.base = round_trip
        if lane is standing.slow:
            standing.position.echoed(sent + round_trip, self._line.log.slow_at(sent), round_trip, standing.base)
            self._line.gaps.forget_below(settled.probe.number - 4 * self._window)
        standing.echoed(lane, probe, now)

    def _look(self, now: float) -> float:
        """Return when the caller last looked before `now`: what it finds now may have been there since."""
        if now > self._looked:
            self._looked_before, self._looked = self._looked, now
        return self._looked_before

    def _mute(self, now: float) -> bool:
        """Number plainly, and probe next to never, while nothing is echoed."""
        patience = MUTE_SECONDS + max((2 * (lane.longest or 0.0) for lane in self._lanes.values()), default=0.0)
        if self._unheard < MUTE_AFTER or now - self._heard_at < patience:
            return False
        self._probes_lost += self._standing.give_up()
        return True

    # For people

    def snapshot(self, now: float) -> Snapshot:
        """Return the present state."""
        active = [lane for lane in self._lanes.values() if now - lane.sent_at <= IDLE]
        safe = any(lane.placed for lane in active)
        return Snapshot(
            mode="safe" if safe else "plain",
            slow=self._standing.slow.dscp if safe and self._standing.slow is not None else None,
            backlog={lane.dscp: self._backlog(lane, now) for lane in active},
            probes_sent=self._probes_sent,
            probes_echoed=self._probes_echoed,
            probes_lost=self._probes_lost,
            gaps_used=self._gaps_used,
            gaps_left=self._line.gaps.left,
            suspected_replay_losses=self._suspected + self._standing.suspected,
        )

    def _backlog(self, lane: Lane, now: float) -> Backlog:
        delay, late = lane.delay, lane.late(lane.certain_doubt)
        if late is not None:
            delay = max(delay or 0.0, now - late.sent)
        if delay is None or self._standing.base is None:
            return Backlog(0, 0.0)
        queued = max(0.0, delay - self._standing.base)
        if now - lane.sent_at > queued:  # the last of it has arrived
            return Backlog(0, 0.0)
        if lane is self._standing.slow:
            return Backlog(self._line.slow - self._line.log.slow_at(now - queued), queued * 1000)
        return Backlog(lane.sent_within(queued, now), queued * 1000)
