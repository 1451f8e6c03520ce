"""One class's way to the receiver, as its probes show it. Its records stay in order, or echoes tell that they do not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.overtaking import Overtaking, State
from qosctl.dtls.numbering.send_history import SendHistory
from qosctl.dtls.numbering.windowed import RoundTrips
from qosctl.dtls.urgency import rank

MAX_UNANSWERED = 1024
"""Probes waited for in one class; beyond it the oldest is given up."""
MAX_MISSED = 64
"""Probes given up whose echo would still be recognized as late."""
MAX_LOW = 64
"""Low numbers that are remembered while they may be on their way."""
RECENT_ROUND_TRIPS = 16
"""Round trips whose longest counts as the present one."""
IN_FLIGHT_S = 1.0
"""Records may be on their way for the class's longest recent round trip and this much longer."""


@dataclass(slots=True)
class Probe:
    """A probe that was sent. Numbers tell places in the line of numbers, not records."""

    id: int
    """Probes of all classes are counted up in the order they are sent."""
    sent: float
    newest: int
    """The newest number of all when it was sent."""
    records: int
    """Records of its own class sent before it."""
    records_before: int
    """The same of the probe before."""
    number: int = 0
    """Its own."""
    behind: bool = False
    """Whether that lies behind the newest on purpose."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What one echo settles: the probe that came back, and older ones that did not."""

    probe: Probe
    missed: list[Probe]
    before: Probe | None
    """The last one that came back before."""
    before_rtt: float
    """Its round trip in seconds."""


@dataclass(slots=True, eq=False)
class ClassPath:
    """A class that has sent."""

    dscp: Dscp
    overtaking: Overtaking
    """Whether it overtakes others."""
    carried_at: float = -inf
    """When it last carried a packet."""
    sent_at: float = -inf
    """The same, or a probe."""
    records: int = 0
    highest: int = 0
    """The highest number it was given."""
    burst: int = 1
    """The most records that it was given numbers for at once."""
    history: SendHistory = field(default_factory=SendHistory)
    unanswered: deque[Probe] = field(default_factory=deque)
    last: Probe | None = None
    """The last probe that came back."""
    heard_at: float = -inf
    """When its echo may have been here already: the caller does not look all the time."""
    heard_newest: int = -1
    """The newest number when the caller learnt of it."""
    _extremes: RoundTrips = field(default_factory=RoundTrips)
    _low: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MAX_LOW))
    probed_at: float = -inf
    probed_newest: int = 0
    """The newest number when it was last probed."""
    arrived: float = 1.0
    """The share of its probes that arrive, of those that were not overtaken."""
    probed_records: int = 0
    """Records sent when it was last probed."""
    unsteady: bool = False
    """Whether its round trips differed just now by so much that they do not tell where the receiver is."""
    queued: int = 0
    """Echoes in a row that came through a queue deeper than the window."""
    _round_trips: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_ROUND_TRIPS))
    _missed: deque[Probe] = field(default_factory=lambda: deque(maxlen=MAX_MISSED))

    @property
    def behind(self) -> bool:
        """Whether its records take numbers behind the newest."""
        return self.overtaking.state is State.BEHIND

    @property
    def probes_low(self) -> bool:
        """Whether its probes take numbers behind the newest: its records do, or it learns whether they may."""
        return self.behind or self.overtaking.state is State.LEARNING

    def less_urgent_than(self, other: ClassPath) -> bool:
        """Tell whether the other class goes first where not all can."""
        return rank(self.dscp) > rank(other.dscp)

    @property
    def min_rtt(self) -> float:
        """The shortest round trip lately in seconds; inf before the first."""
        return self._extremes.shortest

    def lowest(self, now: float) -> float:
        """Return the lowest number behind the newest that may be on its way yet; inf without any.

        What was sent before a probe that has come back has arrived, however long a round trip took lately.
        """
        arrived = -inf if self.last is None else self.last.sent
        low, since = self._low, max(arrived, now - self.longest_rtt)
        while low and low[0][0] < since:
            low.popleft()
        return min((number for _, number in low), default=inf)

    def took_low(self, lowest: int, now: float) -> None:
        """Note that numbers behind the newest were given."""
        self._low.append((now, lowest))

    @property
    def rtt(self) -> float | None:
        """The last round trip in seconds, None before the first."""
        return self._round_trips[-1] if self._round_trips else None

    @property
    def longest_rtt(self) -> float:
        """The longest of the recent ones; 0.0 before the first."""
        return max(self._round_trips, default=0.0)

    @property
    def rtt_spread(self) -> float:
        """By how much the longest round trip of the last seconds exceeded the shortest, at the least."""
        return self._extremes.spread

    def rtt_at_most(self, now: float, dead_below: int) -> float:
        """Return how long its next record may take: as the longest lately, or as one has been out already.

        Probes with numbers up to `dead_below` tell nothing: the receiver drops those.
        """
        first = self.first_unanswered(dead_below)
        return max(self.longest_rtt, 0.0 if first is None else now - first.sent)

    def first_unanswered(self, dead_below: int) -> Probe | None:
        """Return the oldest probe that has not come back and was not dropped for its number."""
        return next((probe for probe in self.unanswered if probe.number > dead_below), None)

    def unanswered_before(self, probe: Probe) -> Iterator[Probe]:
        """Yield what was sent before `probe`, in this class, and has not come back."""
        for each in self.unanswered:
            if each.id > probe.id:
                return
            yield each

    def in_flight(self, now: float) -> bool:
        """Tell whether something of it may not have arrived yet."""
        last = self.last
        return last is not None and last.number < self.highest and now - self.sent_at < self.longest_rtt + IN_FLIGHT_S

    def asked(self, probe: Probe) -> None:
        """Wait for a probe that has its number."""
        if len(self.unanswered) >= MAX_UNANSWERED:
            self._missed.append(self.unanswered.popleft())
        self.unanswered.append(probe)

    def answered(self, probe_id: int, now: float, earliest: float, newest: int) -> Answered | None:
        """Settle a probe and all older ones; None when it is not waited for.

        Its echo was heard at `now`, and may have been here since `earliest`.
        """
        if not any(probe.id == probe_id for probe in self.unanswered):
            return None
        missed = []
        while (probe := self.unanswered.popleft()).id != probe_id:
            missed.append(probe)
        self._missed.extend(missed)
        before_rtt, rtt = self.rtt or 0.0, now - probe.sent
        self._round_trips.append(rtt)
        self._extremes.add(rtt, max(0.0, earliest - probe.sent), now)
        before, self.last = self.last, probe
        self.heard_at = max(earliest, probe.sent)
        self.heard_newest = newest
        return Answered(probe, missed, before, before_rtt)

    def came_late(self, probe_id: int) -> Probe | None:
        """Return a probe that was given up because a younger one had come back, and now comes back after all."""
        for probe in self._missed:
            if probe.id == probe_id:
                self._missed.remove(probe)
                return probe
        return None
