"""When to probe, and which classes: the rounds of probes.

    one class, busy             every 0.1 s: it, and while it queues a scout (replaysafe.py)
    several, none overtakes     every 10 ms: it and one more in turn, in either order
    some class overtakes        every 40 records, every third time with an overtaking class
    no echo for long            every second

Never more than one probe for each 40 records, of a class that sends; nobody is woken for a probe, it rides in front of
the next packets. (Behind a burst it would always find the queue full.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum

from qosctl.dtls.lanes import Lane

PROBE_EVERY = 40
"""Records for each probe: 0.15 % of the bytes of full-size records, below 1 % down to 200 bytes."""
LEAST_PROBE_EVERY = 12
"""The same when many probes are lost on the way."""
WATCH_S = 0.01
DENSE_S = 0.001
ALONE_S = 0.1
FEW_S = 0.7
"""A class alone that takes longer for PROBE_EVERY records is not probed."""
MUTE_S = 1.0
CANARY = 3


class Pace(Enum):
    """How much there is to learn."""

    MUTE = 0
    ALONE = 1
    WATCH = 2
    DENSE = 3


class Rounds:
    """Chooses the classes to probe; ask `due` before sending, and tell `sent`."""

    def __init__(self) -> None:
        self._next = 0.0
        self._next_scout = 0.0
        self._records = 0
        self._due: deque[Lane] = deque()
        self._turn = 0

    def waiting(self, now: float) -> bool:
        """Tell cheaply whether there can be anything to send yet."""
        return bool(self._due) or now >= self._next

    def due(self) -> Lane | None:
        """Return the next class of the round under way."""
        return self._due[0] if self._due else None

    def hurry(self) -> None:
        """Begin the next round as soon as there are enough records: a class has begun to send."""
        self._next = 0.0

    def sent(self) -> None:
        """Take the first class off the round."""
        if self._due:
            self._due.popleft()

    def begin(  # noqa: PLR0913  (all that the choice depends on)
        self, now: float, *, records: int, pace: Pace, slow: Lane, others: Iterable[Lane], scout: Lane | None
    ) -> None:
        """Begin a round if it is time. `records` have been sent so far; `scout` goes along where a class is alone."""
        since = records - self._records
        spacing = PROBE_EVERY
        if pace is Pace.DENSE:
            spacing = max(LEAST_PROBE_EVERY, int(PROBE_EVERY * (1 - slow.loss)))
        if since < spacing:
            if pace is Pace.ALONE and now - self._next > FEW_S:
                self._next, self._records = now, records  # few records are no reason to probe, however long it takes
            return
        ready = [lane for lane in others if lane.records > lane.probed]
        ready.sort(key=lambda lane: lane.asked)
        chosen = [slow] if slow.records > slow.probed else []
        pause = WATCH_S
        if pace is Pace.DENSE:
            self._turn += 1
            pause = DENSE_S
            if ready and (not chosen or self._turn % CANARY == 0):
                chosen.append(ready[0])
        else:
            chosen += ready[: 1 if chosen else 2]
            self._turn += 1
            if self._turn % 2:  # one that overtakes shows it only when it is sent after the other
                chosen.reverse()
        if pace is Pace.ALONE:
            pause = ALONE_S
        elif pace is Pace.MUTE:
            pause = MUTE_S
        if chosen and scout is not None and now >= self._next_scout:
            self._next_scout = now + ALONE_S
            chosen.append(scout)
        if chosen:
            self._next = now + pause
            self._records = records
            self._due.extend(chosen)
