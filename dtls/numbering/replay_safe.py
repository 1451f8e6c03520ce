"""Replay-safe numbering: records of one class overtake another's, and the receiver drops none of them.

THE TRAP. A DTLS receiver drops a record that is 64 or more below the highest number it has accepted (RFC 6347
section 4.1.2.6). A network that honours DSCP lets EF overtake a queue of 200 bulk records; with consecutive numbers
the EF record moves the window past all of them, and they are dropped when they arrive.

THE WAY OUT. The sender chooses the numbers; they must be unique, not consecutive. So bulk leaves gaps, and a record
that will overtake takes an unused number close to where the receiver will be when it arrives:

    sent      b1 b2 b3 -- b5 b6 b7 -- b9 ... b197 b198 b199 --  | now: EF is sent, and takes not 201 but the gap near b5
    queue            [b5 b6 b7 b9 ... b197 b198 b199]           |
    receiver  b1 b2 b3                                          | position: where bulk is when EF arrives

THE FIRST LAW. No class loses more to the window than with plain numbers. A number that is too high costs bulk; one that is
too low costs the call. So a number is not chosen by a guess of the position but by two bounds of it:

    lowest  = position bound - ACCEPTED_BELOW  however far the receiver may be, it accepts this (receiver_position.py)
    highest = reached + ABOVE_REACHED          however near it may be, this drops nothing of what it has not got yet
    number  = the free one at or next below `highest`, and never below `lowest`, even if bulk pays

IN DOUBT, and while round trips differ by more than a window takes, the bound is the newest number. A number from newest
- 63 up to 63 above what was sent 64 records ago harms nobody, whatever the position is: the receiver is at the newest
at the most, and drops what plain numbers would have dropped. That interval holds free numbers as long as gaps are fewer
than records (gap_share.py). The newest number is not in it. The most urgent class takes the lowest of it, which spares
receivers with wider windows, too; what a more urgent one may overtake takes the highest, out of reach of that one.

WHY IT HOLDS, and what it needs:
1. Records of one class arrive in the order they are sent, and those of a class that overtakes before what it overtakes.
   Gaps hurt where that is not so: late by d records is late by more numbers. Therefore numbers are plain, without gaps,
   until echoes of probes (DPD requests) have shown the order for seconds (echo_order.py), and while a class sends that has
   not shown it; one echo in another order ends it (overtaking.py). A class that is late to itself never begins.
2. The position bound holds: a probe or its echo is lost, or the link becomes ten times as fast within a round trip, but
   not both. It is a bound in the sender's own past, so no rate is guessed, and it holds for queues that drop. Late echoes,
   a client or a server that stands still make echoes older, and with their age the bound grows.
3. What is numbered is sent at once. A low number is good for GOOD_FOR_S; a sender that comes later asks again.
4. Only more urgent classes overtake less urgent ones (urgency.py), and of several that overtake the most urgent have
   proved it first. If one of these must take a number that would drop low ones of another, that other takes new ones
   (DOUBTED). A class that waits in a queue itself, beside a more urgent one, takes new numbers (OWN_QUEUE_S).

WHAT IS GIVEN UP WHEN THAT FAILS. Those records that were sent before the next echoes told: a round trip's. Then the class
takes plain numbers, for ten seconds at first, and twice as long each time. The class's probes take the lowest numbers, so
that they are the first to fail. A receiver with a wider window (128, say) drops nothing of a call; of bulk in doubt it may
drop a few records more than of plain numbers, for gaps stretch its window too.

WHAT BULK GETS. A steady queue that is longer than what the link serves in ten round trips (GROWTH) loses nothing. A shorter
one has plain numbers beside it. A burst that was sent at once has numbers in doubt: of twice a window it loses nothing. The
first records of a class that was never seen beside this queue have plain numbers.

FALLBACK. One class, no echo, none that overtakes, or one for which low numbers are of no use (USELESS): plain numbers,
dense and in order. (And while no mark leaves, another numbering does it: switched.py.)

All of this is arithmetic on what the caller tells: no I/O, no clock. `now` is any monotonic time in seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.allocator import Allocator
from qosctl.dtls.numbering.class_path import Answered, ClassPath, Probe
from qosctl.dtls.numbering.echo_order import PAUSED_S, EchoOrder, overtakes
from qosctl.dtls.numbering.gap_share import LEARNING_SHARE, GapShare
from qosctl.dtls.numbering.overtaking import Event, Overtaking, State
from qosctl.dtls.numbering.plain import FIRST_NUMBER, WINDOW
from qosctl.dtls.numbering.probe_schedule import LATELY_S, ProbeSchedule
from qosctl.dtls.numbering.receiver_position import ReceiverPosition
from qosctl.dtls.numbering.replay_losses import ReplayLosses
from qosctl.dtls.numbering.snapshot import Backlog, Snapshot

ACCEPTED_BELOW = WINDOW - 6
"""A number so far below the position bound is still accepted, and five more may overtake it by chance."""
ABOVE_REACHED = 56
"""Numbers above what is reached that drop nothing, less seven."""
PROBE_ABOVE_REACHED, LEARNING_ABOVE_REACHED = 24, 16
"""A probe's number lies this far above, so that it is the first that fails."""
PROBE_BELOW_HIGHEST = 58
"""And no further than this below what its own class and its like were given: that has arrived, or soon will."""
BELOW_PLAIN = 8
"""Numbers below those that drop what plain ones would; for records that a more urgent class may overtake, and in doubt."""
NEAR = 4
"""A place this close below the newest number is as good as the newest one."""
SPARES_LITTLE = 0.75
"""Of what a plain number drops: one that drops more than this is not worth the numbers left free for it."""
GOOD_FOR_S = 0.002
"""For so long a low number may be sent. Half a window, at 16,000 records a second."""
IDLE_S = 10.0
"""Seconds without a record after which a class is no longer shown to people."""


class ReplaySafeNumbering:
    """Owns the numbers of one epoch; see the head of this module, and `plain.Numbering` for `take`."""

    def __init__(self, first: int = FIRST_NUMBER) -> None:
        self.good_until = inf
        """Until when the numbers taken last may be sent; after that, take others."""
        self._allocator = Allocator(first)
        self._probing: Probe | None = None
        self._next_id = 0
        self._looked = self._looked_before = -inf
        self._share = GapShare()
        self._behind_before: list[ClassPath] = []
        self._plain = True  # no class takes low numbers, or learns to
        self._probes_sent = self._probes_echoed = self._probes_missed = self._gaps_used = 0
        self._paths: dict[Dscp, ClassPath] = {}
        paths = self._paths.values()
        self._position = ReceiverPosition(paths, WINDOW)
        self._schedule = ProbeSchedule(paths, WINDOW)
        self._losses = ReplayLosses(paths, WINDOW)
        self._order = EchoOrder(paths, self._schedule)

    @property
    def newest(self) -> int:
        """The highest number used or left free in a gap, or what lies below the first."""
        return self._allocator.newest

    # Numbers

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        """Return `count` unused numbers for records of one class; see plain.Numbering.take."""
        if count <= 0:
            return ()
        self.good_until = inf
        path = self._paths.get(dscp)
        if path is None:
            path = self._paths[dscp] = ClassPath(dscp, Overtaking())
        probe, self._probing = self._probing, None
        if probe is not None:
            numbers: Sequence[int] = (self._for_probe(path, probe, now),)
        elif self._plain and not self._allocator.gaps.left:
            numbers = self._allocator.fresh(count)
        elif path.behind:
            numbers = self._behind(path, count, now)
        else:
            numbers = self._newest(path, count)
            self._doubt_less_urgent(path, numbers[-1], now)
        if probe is None:
            begins = now - path.carried_at > PAUSED_S
            path.carried_at = now
            if begins:
                path.overtaking.begins(now)
                self._schedule.hurry()
                self._leave_gaps(now)
            path.burst = max(path.burst, count)
        path.sent_at = now
        path.records += count
        path.highest = max(path.highest, numbers[-1])
        path.history.note(now, path.highest, path.records)
        if probe is not None:
            probe.number = numbers[0]
            path.asked(probe)
        return numbers

    def _newest(self, path: ClassPath, count: int) -> Sequence[int]:
        """Return new numbers; where gaps have widened the last ones, such as drop no more than plain ones would."""
        self._share.overtaken(count)
        if self._allocator.gaps.left and self._is_overtaking(path):
            wished = self._as_plain()
            return self._near(self._lowest_in_doubt(path, wished), wished, count)
        return self._allocator.fresh(count)

    def _as_plain(self) -> int:
        """Return the number that drops what a plain one would: where gaps have widened the last, the newest drops more."""
        return self._allocator.newest - self._allocator.gaps.above(self._allocator.newest - self._order.window)

    def _doubtful(self, path: ClassPath, count: int) -> Sequence[int]:
        """Return numbers for records that overtake nobody knows what; the highest of which the receiver may be is new."""
        as_plain = self._as_plain()
        lowest = self._lowest_in_doubt(path, as_plain)
        return self._near(lowest, as_plain if self._may_be_overtaken(path) else lowest, count)

    def _lowest_in_doubt(self, path: ClassPath, as_plain: int) -> int:
        """Return the lowest number that is accepted surely; well above, where a more urgent class moves the window on."""
        lowest = max(path.highest, self._allocator.newest) - ACCEPTED_BELOW
        return max(lowest, as_plain - BELOW_PLAIN) if self._may_be_overtaken(path) else lowest

    def _may_be_overtaken(self, path: ClassPath) -> bool:
        """Tell whether a more urgent class sends, which may drop what has low numbers."""
        return any(
            path.less_urgent_than(each) and path.sent_at - each.carried_at < LATELY_S for each in self._paths.values()
        )

    def _near(self, lowest: int, wished: int, count: int) -> Sequence[int]:
        """Return free numbers, from `wished` down to `lowest` if there are any, or else from there up."""
        allocator, wished = self._allocator, max(lowest, wished)
        if count == 1:
            number = allocator.gaps.one(lowest, wished)
            return allocator.fresh(1, gaps=False) if number is None else (number,)
        numbers = allocator.gaps.several(lowest, wished, count)
        return [*numbers, *allocator.fresh(count - len(numbers), gaps=False)] if len(numbers) < count else numbers

    def _is_overtaking(self, path: ClassPath) -> bool:
        """Tell whether there may be something on its way that this class overtakes."""
        return any(each.highest > path.highest - WINDOW for each in self._paths.values() if each.less_urgent_than(path))

    def _doubt_less_urgent(self, path: ClassPath, number: int, now: float) -> None:
        """Let less urgent classes take new numbers if this one would drop their low ones."""
        for each in self._paths.values():
            if each.behind and number - each.lowest(now) >= WINDOW and each.less_urgent_than(path):
                each.overtaking.happens(Event.DOUBTED, now)
                self._leave_gaps(now)

    def _behind(self, path: ClassPath, count: int, now: float) -> Sequence[int]:
        """Return numbers near the receiver's position, at the places that the two bounds leave; see the head."""
        allocator = self._allocator
        self._share.overtaking(count)
        if path.unsteady or self._overtaken(path):
            return self._doubtful(path, count)
        reached = self._position.reached(path, now)
        lowest = self._position.bound(path, now) - ACCEPTED_BELOW
        if reached is None:
            return self._doubtful(path, count)
        if allocator.newest - max(lowest, reached + ABOVE_REACHED) < NEAR:
            numbers = allocator.fresh(count, gaps=False)
            self._doubt_less_urgent(path, numbers[-1], now)
            return numbers
        paid = lowest + ACCEPTED_BELOW >= allocator.newest - NEAR
        wished = int(max(lowest, reached + ABOVE_REACHED))
        self._share.chosen(useless=paid and self._spares_little(wished, reached))
        if paid and self._may_be_overtaken(path):
            wished = max(wished, self._as_plain())
        least = int(max(lowest, reached + LEARNING_ABOVE_REACHED))
        if count == 1:
            number = allocator.gaps.one(least, wished)
            numbers = [] if number is None else [number]
        else:
            numbers = allocator.gaps.several(least, wished, count)
        self._gaps_used += len(numbers)
        if len(numbers) < count:
            numbers += allocator.fresh(count - len(numbers), gaps=False)
        self._losses.sent_low(path, now, numbers[0], count)
        path.took_low(numbers[0], now)
        self._doubt_less_urgent(path, numbers[-1], now)
        self.good_until = now + GOOD_FOR_S
        return numbers

    def _spares_little(self, number: int, reached: float) -> bool:
        """Tell whether a number drops nearly as many of the records above `reached` as a plain one would."""
        window, numbers = self._order.window, self._allocator.newest - reached
        records = numbers - self._allocator.gaps.above(int(reached))
        if records <= window:
            return window > WINDOW
        return (number - reached - window) * records / numbers > SPARES_LITTLE * (records - window)

    def _for_probe(self, path: ClassPath, probe: Probe, now: float) -> int:
        """Return the number of a probe: a low one where its class takes such, or learns to."""
        number = self._low_number(path, now)
        if number is None:
            return self._newest(path, 1)[0]
        probe.behind = True
        self._gaps_used += 1
        self._share.overtaking(1)
        self.good_until = now + GOOD_FOR_S
        return number

    def _low_number(self, path: ClassPath, now: float) -> int | None:
        """Take the number of a probe that lies behind the newest; None where its class takes new ones."""
        places = self._places_for_probe(path, now)
        if places is None:
            return None
        gaps, leave = self._allocator.gaps, 0 if path.behind else 1
        number = gaps.lowest(*places, leave=1)
        return gaps.lowest(*places, leave=leave) if number is None else number

    def _may_probe(self, path: ClassPath, now: float, present: Collection[Dscp]) -> bool:
        """Tell whether a probe of the class can be sent without moving the window further than its packets do."""
        if path.overtaking.state is State.LEARNING and path.dscp in present:
            return True
        places = self._places_for_probe(path, now)
        return places is None or self._allocator.gaps.has(*places, leave=0 if path.behind else 1)

    def _places_for_probe(self, path: ClassPath, now: float) -> tuple[int, int] | None:
        """Return the lowest and the highest number that its probe may have; None where it takes a new one."""
        if path.overtaking.state not in {State.LEARNING, State.BEHIND}:
            return None
        reached = self._position.reached(path, now)
        if reached is None or path.unsteady:
            return None
        if not path.behind:
            return int(reached) + LEARNING_ABOVE_REACHED, int(reached) + ABOVE_REACHED
        reached, arrived = int(reached), self._position.highest_behind()
        lowest = max(arrived - PROBE_BELOW_HIGHEST, reached + PROBE_ABOVE_REACHED)
        if self._allocator.newest - lowest < NEAR:
            return None
        return lowest, max(arrived, reached) + WINDOW // 2

    def _overtaken(self, path: ClassPath) -> bool:
        """Tell whether a class that should be overtaken has come back, and an older probe of this one has not."""
        dead_below = self._position.highest_behind() - self._order.window
        first = path.first_unanswered(dead_below)
        return first is not None and any(
            other.last is not None and not other.behind and overtakes(other.last, first)
            for other in self._paths.values()
            if other is not path
        )

    # Probes

    def waits(self, now: float) -> bool:
        """Tell cheaply that no probe is due: then there is no need to ask `probe_due`."""
        self._look(now)
        return self._schedule.waits(now, self._allocator.newest)

    def probe_due(self, now: float, present: Collection[Dscp]) -> Dscp | None:
        """Return the class in which to send a probe now, or None. `present` are the classes of what is sent next."""
        self._look(now)
        if self._schedule.passes(now, self._allocator.newest, present):
            return None
        for path in self._paths.values():
            path.overtaking.time_passes(now)
        due = self._schedule.due(now, self._allocator.newest, present)
        for path in due:
            if self._may_probe(path, now, present):
                return path.dscp
        self._schedule.rest(now, self._allocator.newest)
        return None

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        """Return the id for a probe that is about to be sent in a class; the caller takes its number like any other."""
        path = self._paths.get(dscp)
        if path is None:
            path = self._paths[dscp] = ClassPath(dscp, Overtaking())
        self._next_id += 1
        newest = self._allocator.newest
        self._probing = Probe(self._next_id, now, newest, path.records, path.probed_records)
        path.probed_records = path.records
        self._schedule.probed(path, now, newest)
        self._probes_sent += 1
        return self._next_id

    def probe_echoed(self, probe: int, now: float) -> None:
        """Learn that a probe arrived; an id that nobody waits for changes nothing."""
        self._look(now)
        newest = self._allocator.newest
        for path in self._paths.values():
            answered = path.answered(probe, now, self._looked_before, newest)
            if answered is not None:
                self._learn(path, answered, now)
                return
            late = path.came_late(probe)
            if late is not None:
                self._order.came_late(path, late, now)
                self._leave_gaps(now)
                return

    def _look(self, now: float) -> None:
        """Note when the caller looks: an echo found now may have been there since it last did."""
        if now > self._looked:
            self._looked_before, self._looked = self._looked, now

    def _learn(self, path: ClassPath, answered: Answered, now: float) -> None:
        self._schedule.heard(now)
        self._probes_echoed += 1
        self._probes_missed += len(answered.missed)
        self._losses.settled(path, answered, now)
        for loser in self._losses.overtaken(path, answered.probe, now):
            self._order.disprove(loser, now)
        self._order.echoed(path, answered, now)
        if self._order.window > self._losses.window:
            self._schedule.window = self._losses.window = self._order.window
        reached = min((each.last.number for each in self._paths.values() if each.last is not None), default=0)
        self._allocator.gaps.forget_below(reached - 4 * self._order.window)
        self._leave_gaps(now)

    def _leave_gaps(self, now: float) -> None:
        """Leave as many numbers free as overtaking records ask for; none while a class overtakes unproved, or none does."""
        paths = self._paths.values()
        behind = [path for path in paths if path.behind]
        if behind != self._behind_before:
            self._behind_before = behind
            self._share.start_over()
        self._plain = not behind and all(path.overtaking.state is not State.LEARNING for path in paths)
        if sum(not path.behind and now - path.carried_at <= PAUSED_S for path in paths) > 1:
            self._allocator.leave(0.0)
        elif not behind:
            self._allocator.leave(0.0 if self._plain else LEARNING_SHARE)
        elif self._share.useless():
            self._allocator.leave(0.0)
            for path in behind:
                path.overtaking.happens(Event.USELESS, now)
        else:
            self._allocator.leave(self._share.share(max(path.burst for path in behind)))

    # For people

    def snapshot(self, now: float) -> Snapshot:
        """Return the present state."""
        active = [path for path in self._paths.values() if now - path.sent_at <= IDLE_S]
        safe = any(path.behind for path in active)
        overtaken = [path for path in active if not path.behind]
        return Snapshot(
            mode="replay-safe" if safe else "plain",
            overtaken=max(overtaken, key=lambda path: path.rtt or 0.0).dscp if safe and overtaken else None,
            backlog={path.dscp: self._backlog(path, now) for path in active},
            probes_sent=self._probes_sent,
            probes_echoed=self._probes_echoed,
            probes_lost=self._probes_missed,
            gaps_used=self._gaps_used,
            gaps_left=self._allocator.gaps.left,
            suspected_replay_losses=self._losses.suspected(now),
            disproved=self._order.disproved,
        )

    def _backlog(self, path: ClassPath, now: float) -> Backlog:
        shortest = min(each.min_rtt for each in self._paths.values())
        if path.rtt is None or shortest == inf:
            return Backlog(0, 0.0)
        beside = max((each.highest for each in self._paths.values() if each is not path), default=0)
        first = path.first_unanswered(beside - self._order.window)
        queued = max(0.0, max(path.rtt, 0.0 if first is None else now - first.sent) - shortest)
        if now - path.sent_at > queued:  # the last of it has arrived
            return Backlog(0, 0.0)
        return Backlog(path.records - path.history.records_at(now - queued), queued * 1000)
