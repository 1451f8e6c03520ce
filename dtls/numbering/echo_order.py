"""What the order of echoes tells: which class overtakes which, and whether records keep their order at all.

A probe that comes back while older ones of another class do not has overtaken them. That is evidence without any clock:
only the way back, which carries no queue of ours, must keep the order. Whatever comes back in another order than it should
counts against all classes: a path that breaks one order is not believed to keep another.
"""

from __future__ import annotations

from collections.abc import Collection

from qosctl.dtls.numbering.class_path import Answered, ClassPath, Probe
from qosctl.dtls.numbering.gap_share import CROWDED
from qosctl.dtls.numbering.overtaking import BELIEVE_S, LEAST_WITNESSES, Event
from qosctl.dtls.numbering.plain import WINDOW
from qosctl.dtls.numbering.probe_schedule import LATELY_S, QUEUE_ROUND_TRIPS, SPARSE_EVERY, ProbeSchedule
from qosctl.dtls.numbering.receiver_position import GROWTH

REORDERING = 16
"""Numbers by which an echo may be late to its own class (the reordering extent of RFC 4737 section 4.2, in numbers)."""
OVERTAKEN_BY, OVERTAKEN_BY_S, FAR_OVERTAKEN_BY = 8, 0.002, 48
"""By more than this a probe must not be overtaken by a class that it should overtake; by so many numbers, never."""
PROBES_MISSING = 3
"""Low-numbered probes in a row whose silence is no chance."""
ARRIVED = 0.9
"""Of the class's own probes; where fewer come back, silence of others is no witness that counts for more than itself."""
QUEUED_ECHOES = 8
"""Echoes in a row that must come through a queue before numbers are left free for a class that is silent."""
OWN_QUEUE_S = 0.04
"""Longer than this, two packets of a call, no class waits whose low numbers are to be out of reach of a more urgent one."""
PAUSED_S = 0.3
"""Seconds without a packet after which a class can learn by its probes alone: its packets would spoil their numbers."""


class EchoOrder:
    """Changes the states of classes by what comes back."""

    def __init__(self, paths: Collection[ClassPath], schedule: ProbeSchedule) -> None:
        """`paths` may grow later."""
        self._paths = paths
        self._schedule = schedule
        self.window = WINDOW
        """How many numbers the receiver remembers, as far as it has shown."""
        self.disproved = 0
        """How often a class lost the trust that it had."""

    def echoed(self, path: ClassPath, answered: Answered, now: float) -> None:
        """Learn from a probe that came back."""
        for other in self._paths:
            if other is not path:
                self._compare(path, other, answered.probe, now)
        self._count_low_probes(path, answered, now)
        self._watch_queue(path, now)
        self._believe(path, now)

    def _compare(self, path: ClassPath, other: ClassPath, probe: Probe, now: float) -> None:
        """Learn from the order in which this probe and those of another class came back."""
        last = other.last
        if last is not None:
            if not probe.behind and last.number - probe.number >= self.window:
                self._widen(last.number - probe.number + 1)
            if probe.behind and last.id < probe.id and last.number - probe.number >= self.window:
                self.disprove(path, now)
        if not other.less_urgent_than(path):
            return
        if last is not None and not other.behind and last.id > probe.id:
            if overtakes(last, probe):
                self._contradicted(now)
                return
            self._reversed(now)
        older = list(other.unanswered_before(probe))
        if not older:
            if (path.rtt or 0.0) > QUEUE_ROUND_TRIPS * min(each.min_rtt for each in self._paths):
                path.overtaking.found_nothing(other.dscp)
            return  # where nobody waits, between two bursts say, there is nothing to find
        dead_below = self._arrived_before(other, probe) - WINDOW
        if last is not None and probe.newest - last.number < self.window:
            return  # so little waits that plain numbers cost nothing
        overtaken = sum(dead_below < each.number <= probe.newest - SPARSE_EVERY for each in older)
        if overtaken and now >= self._schedule.seldom_until:
            few = 1 if path.arrived < ARRIVED else LEAST_WITNESSES
            path.overtaking.overtook(other.dscp, max(few, overtaken), now)

    def _arrived_before(self, other: ClassPath, probe: Probe) -> int:
        """Return the highest number that any class but `other` had been given before a probe was sent."""
        return max(each.history.highest_before(probe.sent) for each in self._paths if each is not other)

    def _count_low_probes(self, path: ClassPath, answered: Answered, now: float) -> None:
        overtaking = path.overtaking
        highest = max((each.highest for each in self._paths if not each.queued), default=0)
        missing = sum(each.behind and each.number > highest - self.window for each in answered.missed)
        if missing:
            overtaking.clean = 0
            overtaking.missing += missing
            if overtaking.missing >= PROBES_MISSING:
                self.disprove(path, now)
        if answered.probe.behind:
            overtaking.clean += 1
            overtaking.missing = 0

    def _watch_queue(self, path: ClassPath, now: float) -> None:
        """Let more urgent classes that are silent learn, while this one's echoes come through a long queue."""
        rtt = path.rtt or 0.0
        queued_s = rtt - min(each.min_rtt for each in self._paths)
        deep = path.highest - path.history.highest_at(now - queued_s) >= self.window
        path.queued = path.queued + 1 if deep else 0
        if path.queued < QUEUED_ECHOES or now < self._schedule.seldom_until:
            return
        for other in self._paths:
            if path.less_urgent_than(other) and other.rtt is not None and now - other.carried_at > PAUSED_S:
                other.overtaking.happens(Event.QUEUE_SEEN, now)

    def _believe(self, path: ClassPath, now: float) -> None:
        overtaking = path.overtaking
        overtaking.time_passes(now)
        spread = min(path.rtt_spread, path.longest_rtt - path.min_rtt)  # lately, and surely so
        path.unsteady = path.behind and not self._steady(now, spread, self.window)
        if path.behind and self._waits_itself(path, now):
            overtaking.happens(Event.DOUBTED, now)
        orderly = any(each.behind for each in self._paths)
        if (
            not path.behind
            and self._free_to_overtake(path, now)
            and overtaking.proves(now, path.longest_rtt, orderly=orderly)
            and self._steady(now, path.rtt_spread, self.window // 2)
            and self._of_use(path, now)
            and not self._waits_itself(path, now)
        ):
            overtaking.happens(Event.PROVED, now)

    def _free_to_overtake(self, path: ClassPath, now: float) -> bool:
        """Tell whether each more urgent class that has sent lately takes low numbers, or it would drop this one's."""
        return all(each.behind or now - each.carried_at > LATELY_S for each in self._paths if path.less_urgent_than(each))

    def _of_use(self, path: ClassPath, now: float) -> bool:
        """Tell whether a queue that it overtakes is longer than what the position bound allows for in any case."""
        overtaken = [each for each in self._paths if each.less_urgent_than(path)]
        if _sent_lately(path, now) > CROWDED * sum(_sent_lately(each, now) for each in overtaken):
            return False
        least = min(each.min_rtt for each in self._paths) + GROWTH * path.min_rtt
        for each in overtaken:
            heard = now - each.heard_at < BELIEVE_S  # or plain numbers drop its probes: then their age tells
            if (each.longest_rtt if heard else each.rtt_at_most(now, 0)) > least:
                return True
        return False

    def _waits_itself(self, path: ClassPath, now: float) -> bool:
        """Tell whether more urgent records may overtake so many of its own that they drop low numbers of it."""
        queued_s = path.longest_rtt - min(each.min_rtt for each in self._paths)
        return queued_s > OWN_QUEUE_S and any(
            path.less_urgent_than(each) and now - each.carried_at <= LATELY_S for each in self._paths
        )

    def _steady(self, now: float, spread: float, most: int) -> bool:
        """Tell whether less than `most` records are sent within `spread` seconds, by which a class's round trips differ."""
        since = now - spread
        return sum(each.records - each.history.records_at(since) for each in self._paths) < most

    def came_late(self, path: ClassPath, late: Probe, now: float) -> None:
        """Records of one class change places: one class that is late to itself is not two classes."""
        assert path.last is not None
        if path.last.newest - late.newest <= REORDERING:
            self._reversed(now)
            return
        self._contradicted(now)
        self._schedule.reordered(now)

    def _reversed(self, now: float) -> None:
        """Two echoes changed places, by ever so little: nothing is proved yet."""
        for path in self._paths:
            path.overtaking.reversed(now)

    def _contradicted(self, now: float) -> None:
        """A path that breaks the order of two classes, or of one, is not believed to keep that of others."""
        self.disproved += sum(each.overtaking.contradicted(now) for each in self._paths)

    def disprove(self, path: ClassPath, now: float) -> None:
        """Believe nothing of a class for a while."""
        if path.overtaking.happens(Event.DISPROVED, now):
            self.disproved += 1

    def _widen(self, window: int) -> None:
        """The receiver has accepted what is further below: plain numbers cost nothing down to there."""
        self.window = window
        for path in self._paths:
            path.overtaking.start_over()


def _sent_lately(path: ClassPath, now: float) -> int:
    """Return how many records of a class were sent while the order was watched."""
    return path.records - path.history.records_at(now - BELIEVE_S)


def overtakes(one: Probe, other: Probe) -> bool:
    """Tell whether the first probe, which has come back, was sent clearly later than the other, which had not."""
    later = one.newest - other.newest
    return later >= FAR_OVERTAKEN_BY or (later >= OVERTAKEN_BY and one.sent - other.sent > OVERTAKEN_BY_S)
