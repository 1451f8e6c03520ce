"""Where the receiver will be: the number of the bulk record that arrives together with one sent now.

Two estimates, from the last echo and from what was sent since, each trusted in proportion to the time that the other one
has to bridge: a long queue beside a short round trip is judged by work, a short one at the end of a long trip by delay.
(Against their plain mean, this moves losses from the priority class to bulk: over the simulator's grid the priority class
loses a tenth less, and half as much on its 120 shorter runs with 300 ms or 60 % priority, and bulk half as much again.)

- By delay: bulk now takes as long as the last probe took, and longer by the time that the link needs for what overtakes
  it more than it did the probe (a video that begins; the queue's length in bytes is taken for the same). So what arrives
  with an overtaking record is what was newest `lag` seconds ago, lag = delay of bulk - delay of the overtaking class.
  Exact when the queue is full, or steady; holds over any round trip; learns of a growing queue one round trip late.
- By work: the link serves `capacity` records a second, overtaking ones first, and how many of these there were is
  known. So bulk has moved on, since the probe arrived, by capacity x time - overtaking records sent. Follows bursts and
  TCP at once; a wrong capacity counts for a whole round trip.

All times are seconds on the sender's clock. Only differences of round trips enter, so the way back cancels out as long
as it is the same for all classes; nothing is assumed about its symmetry.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from qosctl.dtls.numbering.sendlog import SendLog

IDLE_QUEUE = 0.001
"""Seconds of queueing below which the link was not busy all the time, so that its capacity did not show."""
LEAST_WORK = 64
"""Records between two echoes that a capacity is taken from."""
GROWTH = 3.0
"""By how many times itself the capacity may grow in a round trip. Of a burst that a full queue drops, the echoes come too
soon for what was sent, and look like a faster link. A link that is faster echoes faster, which is nearly as good."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One echo: at `heard` the receiver was known to have had so much."""

    heard: float
    bulk: int
    overtaking: int
    overtook: int
    """Records that overtook the probe."""


class Position:
    """Estimates positions for one slow class; start a new one when another class becomes the slow one."""

    def __init__(self, log: SendLog) -> None:
        self._log = log
        self._anchors: deque[Anchor] = deque(maxlen=64)
        self.capacity: float | None = None
        """Records per second, all classes; None until it has shown."""

    def echoed(self, now: float, bulk: int, round_trip: float, base: float) -> None:
        """Learn that the probe sent after `bulk` bulk records took `round_trip`, an unqueued one `base`."""
        anchors = self._anchors
        if round_trip - base < IDLE_QUEUE:
            anchors.clear()
        log = self._log
        overtaking = log.overtaking_at(now - base)
        latest = Anchor(now, bulk, overtaking, overtaking - log.overtaking_at(now - round_trip))
        anchors.append(latest)
        if len(anchors) < 2:
            return
        for earlier in reversed(anchors):
            work = bulk - earlier.bulk + latest.overtaking - earlier.overtaking
            if work >= LEAST_WORK and now - earlier.heard >= base:
                break
        if now > earlier.heard and work > 0:  # nothing served is nothing learnt of the link
            seen = work / (now - earlier.heard)
            if self.capacity is None:
                self.capacity = seen
            else:
                most = self.capacity * (1 + GROWTH * (now - anchors[-2].heard) / round_trip)
                self.capacity = min((self.capacity + seen) / 2, most)

    def at_arrival(self, now: float, lag: float, own_delay: float, bulk: int, overtaking: int) -> int:
        """Return the receiver's position when a record sent now arrives.

        `lag` is bulk's delay minus the record's own; `bulk` and `overtaking` count what has been sent.
        """
        log = self._log
        if self.capacity is None or not self._anchors:
            return log.newest_at(now - lag)
        anchor = self._anchors[-1]
        more = overtaking - log.overtaking_at(now - lag) - anchor.overtook
        lag = max(0.0, lag + more / self.capacity)
        by_delay = log.newest_at(now - lag)
        served = self.capacity * (now - anchor.heard + own_delay) - (overtaking - anchor.overtaking)
        by_work = log.newest_when(min(bulk, anchor.bulk + max(0.0, served)))
        bridged = now - anchor.heard + own_delay
        place = int((by_delay * bridged + by_work * lag) / (bridged + lag)) if lag > 0 else by_delay
        return max(place, log.newest_when(anchor.bulk))
