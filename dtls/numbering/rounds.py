"""When to probe, and which classes: the rounds of probes.

    one class, busy             every 0.1 s; while it queues every 20 ms, with a scout (replaysafe.py) every 0.1 s
    several, none overtakes     every 10 ms: it and one more in turn, in either order
    some class overtakes        every 40 records, or 40 numbers while all probes come back; every third time with an
                                overtaking class
    no echo for long            every second

Never more than one probe for each 40 records, of a class that sends; nobody is woken for a probe, it rides in front of
the next packets. (Behind a burst it would always find the queue full.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum

from qosctl.dtls.numbering.lanes import Lane

PROBE_EVERY = 40
"""Records for each probe: 0.15 % of the bytes of full-size records, below 1 % down to 200 bytes."""
LEAST_PROBE_EVERY = 12
"""The same when many probes are lost on the way."""
WATCH_S = 0.01
DENSE_S = 0.0002
ALONE_S = 0.1
READY_S = 0.02
"""The same, where there is a queue that something may overtake at any moment."""
FEW_S = 0.7
"""A class alone that takes longer for PROBE_EVERY records is not probed."""
MUTE_S = 1.0
CANARY = 3


class Pace(Enum):
    """How much there is to learn."""

    MUTE = 0
    ALONE = 1
    READY = 2
    WATCH = 3
    DENSE = 4


_PAUSES = {Pace.MUTE: MUTE_S, Pace.ALONE: ALONE_S, Pace.READY: READY_S, Pace.WATCH: WATCH_S, Pace.DENSE: DENSE_S}


class Rounds:
    """Chooses the classes to probe; ask `due` before sending, and tell `sent`."""

    def __init__(self) -> None:
        self._next = 0.0
        self._next_scout = 0.0
        self._records = self._numbers = 0
        self._due: deque[Lane] = deque()
        self._turn = 0
        self._least = 0  # numbers without which there is nothing to begin

    def waiting(self, now: float, numbers: int) -> bool:
        """Tell cheaply whether there can be anything to send yet. `numbers`: the newest, of which each record has one."""
        return bool(self._due) or (now >= self._next and numbers - self._numbers >= self._least)

    def due(self) -> Lane | None:
        """Return the next class of the round under way."""
        return self._due[0] if self._due else None

    def hurry(self) -> None:
        """Begin the next round as soon as there are enough records: a class has begun to send."""
        self._next = 0.0
        self._least = 0

    def sent(self) -> None:
        """Take the first class off the round."""
        if self._due:
            self._due.popleft()

    def begin(  # noqa: PLR0913  (all that the choice depends on)
        self, now: float, *, records: int, numbers: int, pace: Pace, slow: Lane, others: Iterable[Lane], scout: Lane | None
    ) -> None:
        """Begin a round if it is time. `records` have been sent so far; `scout` goes along where a class is alone."""
        since = records - self._records
        spacing = PROBE_EVERY
        self._least = PROBE_EVERY if pace is Pace.ALONE else 0
        if pace is Pace.DENSE:
            if slow.calm:
                since = numbers - self._numbers  # a bracket around the position, narrower than the window
            spacing = max(LEAST_PROBE_EVERY, int(PROBE_EVERY * (1 - slow.loss)))
        if since < spacing:
            if pace is Pace.ALONE and now - self._next > FEW_S:
                # Few records are no reason to probe, however long it takes.
                self._next, self._records, self._numbers = now, records, numbers
            return
        ready = [lane for lane in others if lane.records > lane.probed]
        ready.sort(key=lambda lane: lane.asked)
        chosen = [slow] if slow.records > slow.probed else []
        if pace is Pace.DENSE:
            self._turn += 1
            if ready and (not chosen or self._turn % CANARY == 0):
                chosen.append(ready[0])
        else:
            chosen += ready[: 1 if chosen else 2]
            self._turn += 1
            if self._turn % 2:  # one that overtakes shows it only when it is sent after the other
                chosen.reverse()
        if chosen and scout is not None and now >= self._next_scout:
            self._next_scout = now + ALONE_S
            chosen.append(scout)
        if chosen:
            self._next = now + _PAUSES[pace]
            self._records, self._numbers = records, numbers
            self._due.extend(chosen)
