"""When to probe, and in which class. A probe is a record of its class: it is sent only where the class has been lately.

    one class                          every 0.1 s; in a queue every 20 ms
    several                            every 50 ms or 64 numbers, each with a packet of its own class; in a queue, 20 ms
    several, and something may be      every 24 numbers, until it is known; every 20 when it is
      overtaken, or is
    a class that overtakes             every 40 numbers in turn, low ones; every 16 while nothing is heard of what it
                                       overtakes; every 50 ms while it is silent
    numbers that changed places        every second
    no echo for long, or many classes  every second
    of all classes together            1,500 a second, at the most

Nobody is woken for a probe: it rides with the next packets, and but for those with low numbers with one of its own class,
so that it moves the receiver's window no further than that packet does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.class_path import ClassPath
from qosctl.dtls.numbering.overtaking import State

PROBE_EVERY = 20
"""Numbers for each probe where something may be overtaken: a third of a window. Two classes at it make 0.5 % of the bytes
of full-size records."""
SPARSE_EVERY = 24
"""The least where it is not known that anything may be overtaken."""
LOW_PROBE_EVERY, STALE_PROBE_EVERY = 2 * PROBE_EVERY, 16
STALE = 4 * PROBE_EVERY
"""Numbers without an echo of the class that is overtaken, after which only low numbers that are accepted tell anything."""
LEAST_NUMBERS = 8
"""Numbers between two probes of a class at the least."""
SENDING_S = 1.0
"""Seconds without a packet after which a class counts as silent."""
LATELY_S = 30.0
"""Seconds after its last packet for which a class is probed. No other class ever is."""
CLASSES_MAX = 8
"""With more of them lately there is next to no probing: a network has some eight queues (CS0 to CS7) for all of them, each
class more is a probe more, and the work is done for each pair of them."""
ALONE_S, WATCH_S, QUEUED_S, SILENT_S, LEARNING_S, SELDOM_S = 0.1, 0.05, 0.02, 0.05, 0.01, 1.0
FIRST_SELDOM_S, MOST_SELDOM_S = 10.0, 600.0
LOOK_S = 0.005
"""Nothing is decided anew more often than this, unless LEAST_NUMBERS have been sent."""
MOST_PER_S, MOST_AT_ONCE_S = 1500, 0.04
"""Probes a second at the most, of all classes together, and for how long of that they may come at once: sixty in a burst.
From some 20,000 records a second of mixed classes on, one for each PROBE_EVERY would cost the client more than they do."""
QUEUE_ROUND_TRIPS = 1.5
"""What has not come back after so many round trips is late or lost."""
MUTE_AFTER, MUTE_S = 16, 3.0
"""Probes and seconds in a row without any echo after which the server is taken for one that does not echo."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds and numbers between two probes of a class that takes new numbers: whichever is over first."""

    seconds: float
    numbers: float = inf
    least: int = SPARSE_EVERY
    """Numbers that there must be in any case."""


class ProbeSchedule:
    """Chooses the class to probe. Tell it what was probed and heard."""

    def __init__(self, paths: Collection[ClassPath], window: int) -> None:
        """`paths` may grow later."""
        self._paths = paths
        self.window = window
        self._look_at = -inf
        self._look_number = 0.0
        self._spent_until = -inf  # by when the probes so far would have been sent at MOST_PER_S
        self._awaited = frozenset[Dscp]()
        self._low_probe = 0  # the newest number at the last low-numbered probe
        self._unheard = 0
        self._heard_at = -inf  # or the first probe's time
        self._seldom = FIRST_SELDOM_S
        self.seldom_until = -inf
        """Until then hardly anything is probed: there is nothing to gain on this path."""

    def waits(self, now: float, newest: int) -> bool:
        """Tell cheaply that there is nothing to probe yet, whatever is sent next."""
        return self._too_many(now) or (now < self._look_at and newest < self._look_number and not self._awaited)

    def passes(self, now: float, newest: int, present: Collection[Dscp]) -> bool:
        """Tell cheaply that there is nothing to probe before packets of these classes."""
        return self._too_many(now) or (
            now < self._look_at and newest < self._look_number and self._awaited.isdisjoint(present)
        )

    def hurry(self) -> None:
        """Look again at the next occasion: a class has begun to send."""
        self._look_at, self._look_number = -inf, 0.0

    def probed(self, path: ClassPath, now: float, newest: int) -> None:
        """Note a probe."""
        self._spent_until = max(self._spent_until, now) + 1 / MOST_PER_S
        path.probed_at, path.probed_newest = now, newest
        if path.behind:
            self._low_probe = newest
        if not self._unheard:
            self._heard_at = now
        self._unheard += 1

    def heard(self, now: float) -> None:
        """Note an echo."""
        self._unheard, self._heard_at = 0, now

    def mute(self, now: float) -> bool:
        """Tell whether the server seems not to echo."""
        return self._unheard >= MUTE_AFTER and now - self._heard_at > MUTE_S

    def due(self, now: float, newest: int, present: Collection[Dscp]) -> list[ClassPath]:
        """Return the classes that are due, the longest waiting first. `present` are those of the next packets."""
        lately = [path for path in self._paths if now - path.carried_at <= LATELY_S or path.dscp in present]
        pace = self._pace(lately, now, present)
        due = [
            path
            for path in lately
            if (
                self._low_due(path, lately, now, newest, present)
                if path.probes_low and pace.seconds < SELDOM_S
                else _new_due(path, pace, now, newest, present)
            )
        ]
        return sorted(due, key=lambda path: path.probed_at)

    def rest(self, now: float, newest: int) -> None:
        """Look again a little later, or when a class sends that is due but for that: there is nothing to probe now."""
        lately = [path for path in self._paths if now - path.carried_at <= LATELY_S]
        if len(lately) == 1:
            self._look_at, self._look_number, self._awaited = now + QUEUED_S, inf, frozenset()
            return
        self._look_at, self._look_number = now + LOOK_S, newest + LEAST_NUMBERS
        every = [path.dscp for path in self._paths]
        self._awaited = frozenset(path.dscp for path in self.due(now, newest, every))

    def reordered(self, now: float) -> None:
        """Probe hardly any more, for longer each time: on a path that changes the order there is nothing to gain."""
        if now >= self.seldom_until:
            self.seldom_until = now + self._seldom
            self._seldom = min(MOST_SELDOM_S, 2 * self._seldom)

    def _too_many(self, now: float) -> bool:
        return self._spent_until - now > MOST_AT_ONCE_S

    def _pace(self, lately: list[ClassPath], now: float, present: Collection[Dscp]) -> Pace:
        if len(lately) > CLASSES_MAX or self.mute(now) or now < self.seldom_until:
            return Pace(SELDOM_S)
        sending = [path for path in lately if now - path.carried_at <= SENDING_S or path.dscp in present]
        if any(path.overtaking.state is State.LEARNING or (path.behind and path in sending) for path in lately):
            return Pace(0.0, least=PROBE_EVERY)
        late = self._late(lately)
        queued = late or any(path.queued for path in lately)
        if len(lately) == 1:
            return Pace(QUEUED_S if queued else ALONE_S)
        if len(sending) > 1 and late:
            return Pace(0.0)
        return Pace(QUEUED_S if queued else WATCH_S, self.window)

    def _low_due(
        self, path: ClassPath, lately: list[ClassPath], now: float, newest: int, present: Collection[Dscp]
    ) -> bool:
        """Tell whether a class that takes low numbers, or learns to, is due."""
        others = [each for each in lately if not each.probes_low]
        if not any(now - each.carried_at <= SENDING_S for each in others):
            return False
        since, elapsed = newest - path.probed_newest, now - path.probed_at
        if not path.behind:
            return since >= LEAST_NUMBERS and elapsed >= LEARNING_S
        if now - path.carried_at > SENDING_S and path.dscp not in present:
            return since >= LEAST_NUMBERS and elapsed >= SILENT_S
        stale = all(newest - each.heard_newest >= STALE for each in others)
        return newest - self._low_probe >= (STALE_PROBE_EVERY if stale else LOW_PROBE_EVERY)

    def _late(self, lately: list[ClassPath]) -> bool:
        """Tell whether a probe has been out for longer than an empty path takes, while a window's numbers were sent."""
        shortest = min((path.min_rtt for path in self._paths), default=inf)
        return any(
            path.highest - path.history.highest_at(path.unanswered[0].sent + QUEUE_ROUND_TRIPS * shortest) >= self.window
            for path in lately
            if path.unanswered
        )


def _new_due(path: ClassPath, pace: Pace, now: float, newest: int, present: Collection[Dscp]) -> bool:
    """Tell whether a class that takes new numbers is due."""
    since = newest - path.probed_newest
    if since < pace.least or (since < pace.numbers and now - path.probed_at < pace.seconds):
        return False
    return path.dscp in present
