"""Whether a class overtakes others: what echoes have shown of it, and what its records are numbered like therefore.

                        a queue is seen,               its low probes
                        and it is silent               came back
        +--> NEWEST -------------------> LEARNING -------------------> BEHIND
        |     |  ^                        |   |                         |  |
        |     |  +--- nothing learnt -----+   |       nothing to        |  |
        |     |  +---------------------------------------overtake ------+  |
        |     +------ order proved for seconds ------------------------>   |
        |                                     | disproved                  | disproved
        +---- time is over --- DISTRUSTED <---+----------------------------+

Order is proved by echoes alone, never by clocks: a probe of this class came back while older ones of another did not. And
it is disproved by one echo: trust is won in seconds and lost at once, for longer each time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from math import inf

from qosctl.bpf.dscp import Dscp

WITNESSES, FEW_WITNESSES = 24, 10
"""Overtaken probes that prove the order; fewer where another class has proved already that the path has one."""
LEAST_WITNESSES, MOST_WITNESSES = 3, 8
"""Of these that one probe counts for, where probes come back. A burst has one or two in it: eight bursts are enough."""
BELIEVE_S, BELIEVE_ROUND_TRIPS = 2.0, 8
"""For so long there must have been nothing that contradicts. A path that reorders at times shows it in such a time."""
CLEAN_PROBES = 12
"""Low-numbered probes in a row that must come back before packets take such numbers."""
LEARN_S = 3.0
"""Numbers are left free for so long at the most without any use."""
AGAIN_S = 30.0
"""After that, or after a contradiction, nothing is believed for so long."""
UNUSED_S = 10.0
"""A class that has overtaken nothing for so long takes new numbers again, and none is left free for it."""
DISTRUST_S, MOST_DISTRUST_S = 10.0, 600.0
"""For so long numbers are plain after something went wrong; twice as long each time."""

DOUBT_S, MOST_DOUBT_S, CALM_S = 0.25, 16.0, 10.0
"""So long numbers are plain after a doubt, in which none need have been wrong, or where low ones spare nobody: twice as
long each time, and the first again after so long without any. What was seen is as true as before, and could not be seen
again: plain numbers drop the probes that would show it."""


class State(enum.Enum):
    """What numbers a class takes."""

    NEWEST = "newest"
    """New ones, in ascending order: plain numbers."""
    LEARNING = "learning"
    """The same; its probes take low ones, which harms nobody if they are wrong."""
    BEHIND = "behind"
    """Unused ones near the receiver's position."""
    DISTRUSTED = "distrusted"
    """New ones, whatever echoes say."""


class Event(enum.Enum):
    """What may change that."""

    QUEUE_SEEN = enum.auto()
    """A less urgent class waits in a queue, and this one does not send at present."""
    PROVED = enum.auto()
    """It overtakes, beyond doubt."""
    DISPROVED = enum.auto()
    """It was overtaken, its records or another's change places, or some were dropped for their numbers."""
    DOUBTED = enum.auto()
    """A more urgent class takes numbers that drop its records: plain ones, or high ones for want of evidence."""
    UNUSED = enum.auto()
    """There is nothing to overtake, or no way to learn it."""
    USELESS = enum.auto()
    """Its low numbers spare nobody: there are too few, or the position is in doubt nearly always."""
    TIME_OVER = enum.auto()
    """It has been distrusted for long enough."""


TRANSITIONS = {
    (State.NEWEST, Event.QUEUE_SEEN): State.LEARNING,
    (State.NEWEST, Event.PROVED): State.BEHIND,
    (State.LEARNING, Event.PROVED): State.BEHIND,
    (State.LEARNING, Event.UNUSED): State.NEWEST,
    (State.LEARNING, Event.DISPROVED): State.DISTRUSTED,
    (State.BEHIND, Event.UNUSED): State.NEWEST,
    (State.BEHIND, Event.DOUBTED): State.NEWEST,
    (State.BEHIND, Event.USELESS): State.NEWEST,
    (State.BEHIND, Event.DISPROVED): State.DISTRUSTED,
    (State.DISTRUSTED, Event.TIME_OVER): State.NEWEST,
}
"""Whatever is not here changes nothing."""


@dataclass(slots=True)
class Evidence:
    """What speaks for a class overtaking one other class."""

    witnesses: int = 0
    since: float = inf


@dataclass(slots=True)
class Overtaking:
    """The state of one class, and what is known for and against it."""

    state: State = State.NEWEST
    since: float = -inf
    """When that began."""
    overtook_at: float = -inf
    """When it last was seen to overtake so much that plain numbers would cost something."""
    clean: int = 0
    """Its low-numbered probes in a row that came back."""
    missing: int = 0
    """Those in a row that did not."""
    disproved: int = 0
    """How often it lost trust."""
    _until: float = -inf  # DISTRUSTED, or else believing nothing
    _learn_after: float = -inf  # nothing was learnt
    _distrust: float = DISTRUST_S
    _doubt: float = DOUBT_S
    _evidence: dict[Dscp, Evidence] = field(default_factory=dict)

    def happens(self, event: Event, now: float) -> bool:
        """Change the state by the table; tells whether it did."""
        after = TRANSITIONS.get((self.state, event))
        if after is None or (event is Event.QUEUE_SEEN and now < max(self._until, self._learn_after)):
            return False
        before, before_since = self.state, self.since
        self.state, self.since = after, now
        self.clean = self.missing = 0
        if after is State.BEHIND:
            self.overtook_at = now
        elif after is State.DISTRUSTED:
            self.disproved += 1
            self._until = now + self._distrust
            self._distrust = min(MOST_DISTRUST_S, 2 * self._distrust)
            self._evidence.clear()
        elif before is State.LEARNING:
            self._learn_after = now + AGAIN_S
        elif event in {Event.USELESS, Event.DOUBTED}:
            if now - before_since > CALM_S:
                self._doubt = DOUBT_S
            self._until = now + self._doubt
            self._doubt = min(MOST_DOUBT_S, 2 * self._doubt)
        return True

    def time_passes(self, now: float) -> None:
        """Let time end what it ends."""
        match self.state:
            case State.DISTRUSTED if now >= self._until:
                self.happens(Event.TIME_OVER, now)
            case State.LEARNING if now - self.since > LEARN_S:
                self.happens(Event.UNUSED, now)
            case State.BEHIND if now - self.overtook_at > UNUSED_S:
                self.happens(Event.UNUSED, now)

    def begins(self, now: float) -> None:
        """Its packets begin: they have new numbers, which spoil the low ones of probes."""
        if self.state is State.LEARNING:
            self.happens(Event.UNUSED, now)

    def overtook(self, other: Dscp, probes: int, now: float) -> None:
        """A probe came back while older ones of the other class did not: it counts for so many."""
        self.overtook_at = now
        if now < self._until:
            return
        evidence = self._evidence.setdefault(other, Evidence())
        if not evidence.witnesses:
            evidence.since = now
        evidence.witnesses += min(probes, MOST_WITNESSES)

    def found_nothing(self, other: Dscp) -> None:
        """It waited itself, and all older probes of the other class have come back before: that is no priority."""
        evidence = self._evidence.get(other)
        if evidence is not None and evidence.witnesses:
            evidence.witnesses -= 1

    def reversed(self, now: float) -> None:
        """Two echoes changed places, by so little that it matters only to those who believe nothing yet."""
        if self.state is not State.BEHIND:
            self.happens(Event.UNUSED, now)
            self._evidence.clear()
            self._until = max(self._until, now + BELIEVE_S)

    def contradicted(self, now: float) -> bool:
        """A younger probe of a class that it should overtake came back before one of its own. Tells whether it matters."""
        self._evidence.clear()
        self._until = max(self._until, now + AGAIN_S)
        return self.happens(Event.DISPROVED, now)

    def start_over(self) -> None:
        """What was seen costs nothing after all: the window is wider."""
        if self.state is State.NEWEST:
            self._evidence.clear()

    def proves(self, now: float, rtt: float, *, orderly: bool) -> bool:
        """Tell whether what was seen is enough. `orderly`: another class has proved that the path has an order."""
        if now < self._until:
            return False
        if self.state is State.LEARNING and self.clean >= CLEAN_PROBES:
            return now - self.since >= BELIEVE_ROUND_TRIPS * rtt
        least, patience = (FEW_WITNESSES, 0.0) if orderly else (WITNESSES, BELIEVE_S)
        patience = max(patience, BELIEVE_ROUND_TRIPS * rtt)
        return any(each.witnesses >= least and now - each.since >= patience for each in self._evidence.values())
