"""Who overtakes whom: the classes, the slow one among them, and what echoes and silence say about their order."""

from __future__ import annotations

from qosctl.bpf.dscp import EF, Dscp
from qosctl.dtls.numbering.lanes import Lane
from qosctl.dtls.numbering.line import RUN, Line
from qosctl.dtls.numbering.position import Position

SENDING = 1.0
"""Seconds without a record after which a class no longer counts as sending."""
IDLE = 10.0
"""Seconds without a record after which what is known of a class is forgotten."""
SAME_TIME = 0.002
"""Seconds of difference between the delays of overtaking classes that are within their noise."""
SCOUTED = (EF, Dscp.parse("AF41"))
"""Classes worth a scout before they have ever sent: calls and video."""
QUEUED = 0.003
"""Seconds above the shortest round trip that are a queue: worth a scout."""
OVERDUE, OVERDUE_S = 1.5, 0.01
"""A placed class may be silent for so many times its longest recent round trip, and so many seconds more."""
LEVEL = 3
"""Echoes in a row that must show no queue to overtake: a pause of this program drains it for a moment."""
TWICE = 2
"""One probe may be lost; two in a row are taken for news."""


class Standing:
    """Keeps the classes. `slow` takes new numbers, and so do all that are not `placed`."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.lanes: dict[Dscp, Lane] = {}
        self.slow: Lane | None = None
        self.position = Position(line.log)
        """Of the slow class."""
        self.base: float | None = None
        """The shortest round trip of all, in seconds."""
        self.refresh = 0.0
        """Seconds that a position holds good for."""
        self.waiting = False
        """Whether overtaking records wait at a late probe."""
        self.suspected = 0
        """Records of placed classes that were probably dropped."""

    def wake(self, dscp: Dscp, now: float) -> Lane:
        """Begin with a class, or begin anew after a while without it."""
        lane = self.lanes.get(dscp)
        if lane is None:
            lane = self.lanes[dscp] = Lane(dscp, now, now)
        else:
            if now - lane.sent_at > IDLE and not lane.placed:
                lane.forget()
            lane.woken_at = now
        if self.slow is None or now - self.slow.sent_at > SENDING:
            self._make_slow(lane, now)
        return lane

    def sending(self, now: float) -> list[Lane]:
        """Return the classes that send at present."""
        return [lane for lane in self.lanes.values() if now - lane.sent_at <= SENDING]

    def queued(self) -> bool:
        """Tell whether there is something to overtake."""
        slow = self.slow
        return slow is not None and slow.delay is not None and slow.delay - (self.base or 0.0) >= QUEUED

    def scout(self) -> Lane | None:
        """Return a class that may overtake soon, each in its turn, if there is something to overtake."""
        slow = self.slow
        if not self.queued():
            return None
        for dscp in SCOUTED:
            if dscp not in self.lanes:
                self.lanes[dscp] = Lane(dscp, float("-inf"))
        silent = (lane for lane in self.lanes.values() if lane is not slow and lane.records <= lane.probed)
        return min(silent, key=lambda lane: lane.asked, default=None)

    def echoed(self, lane: Lane, probe: int, now: float) -> None:
        """Learn the order of echoes from this one."""
        slow = self.slow
        if lane is slow:
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

    def watch_silence(self, now: float, heard_at: float) -> None:
        """Raise placed classes that are silent; find a class that is overtaken by the one taken for the slow one.

        `heard_at` is when the last echo of any class was heard: nobody is silent while nobody listens.
        """
        slow = self.slow
        for lane in self.lanes.values():
            if lane is slow or slow is None:
                continue
            if lane.placed:
                dropped = lane.dropped()
                due = heard_at - OVERDUE * (lane.longest or 0.0) - OVERDUE_S
                if len(dropped) >= TWICE and dropped[1].sent < due:
                    self.suspected += lane.records - dropped[0].records
                    self._raise(lane)
            elif lane.late_for(slow.echoed_id):
                self._make_slow(lane, now)
                return

    def give_up(self) -> int:
        """Forget all order, since nothing is echoed; return how many probes are given up."""
        lost = 0
        for lane in self.lanes.values():
            while len(lane.open) > TWICE:  # they may be the first to come back
                lane.open.popleft()
                lost += 1
            lane.placed = lane.trial = False
            lane.round_trips.clear()
        self.base = None
        self.waiting = False
        self._line.plan(queued=False, overtaken=False, waiting=False)
        return lost

    def _judge(self, slow: Lane, probe: int) -> None:
        """Learn from an echo of the slow class who overtook that probe of it, and who does not overtake."""
        gain = RUN / max(1.0, self._line.log.pace())
        for lane in self.lanes.values():
            if lane is slow:
                continue
            if self.waiting:  # probes sent while waiting say nothing about the place that is known now
                lane.excuse()
            ahead = (slow.delay or 0.0) - (lane.longest or 0.0)
            if lane.echoed_id > max(probe, lane.excused) and ahead > gain:
                lane.placed = True
                lane.level = 0
            elif lane.placed:
                lane.level = lane.level + 1 if ahead <= gain else 0
                if lane.level >= LEVEL or sum(each.id < probe for each in lane.dropped()) >= TWICE:
                    self._raise(lane)

    def _raise(self, lane: Lane) -> None:
        """Give a class new numbers, for it does not overtake or is dropped itself."""
        lane.placed = False
        lane.level = 0
        lane.excuse()

    def _make_slow(self, lane: Lane, now: float) -> None:
        if lane is self.slow:
            return
        self.slow = lane
        self.position = Position(self._line.log)
        for each in self.lanes.values():
            each.placed = each.trial = False
            each.overtaken = 0
        self._plan(now)

    def _plan(self, now: float) -> None:
        """Adapt to what has been learnt."""
        placed = [lane for lane in self.lanes.values() if lane.placed]
        self.waiting = self.waiting and bool(placed)
        overtaken = any(now - lane.sent_at <= SENDING for lane in placed)
        self._line.plan(queued=self.queued(), overtaken=overtaken, waiting=self.waiting)
        self.refresh = min(0.001, 8 / max(1.0, self._line.log.pace()))
        for lane in placed:
            latest = (lane.longest or 0.0) + SAME_TIME
            lane.before = [other for other in placed if other is lane or (other.shortest or 0.0) <= latest]
            lane.wanted_until = 0.0
