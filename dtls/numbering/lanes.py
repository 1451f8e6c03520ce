"""One class's way through the network, as its probes show it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from qosctl.bpf.dscp import Dscp

MAX_OPEN = 1024
"""Probes waited for in one class; beyond it the oldest is given up."""
RECENT = 3
"""Round trips that the delay of an overtaking class is judged by."""
CERTAINTY = 0.001
"""How likely the loss of all probes in a row must be before their silence is taken for delay, at most."""
LEAST_DOUBT, MOST_DOUBT = 1, 60
CERTAIN_DOUBT = 2
"""The same where an error would cost the priority class: no fewer than this."""
CALM = 0.03
"""Share of probes without an echo up to which the first that is silent is taken for late."""
FORGET_SILENCE = 0.02
"""Weight of each echo in that share: it takes two or three seconds to trust a path again."""


@dataclass(slots=True)
class Probe:
    """A probe that was sent and has neither been echoed nor given up."""

    id: int
    """Probes of all classes are counted up in the order they are sent."""
    sent: float
    number: int
    """The newest number when it was sent."""
    records: int
    """Records of its own class sent before it."""
    fresh: bool
    """Whether it has the newest number, so that silence means delay or loss; otherwise it may have been dropped."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What one echo told."""

    probe: Probe
    lost: int
    """Older probes that never arrived, or were dropped on arrival."""
    replayed: int
    """Records that were sent among those dropped on arrival, and so likely met the same end."""


@dataclass(slots=True, eq=False)
class Lane:
    """A class that has sent. Its records, and so its probes, stay in order: an echo settles all older probes."""

    dscp: Dscp
    sent_at: float
    """When it last sent a record, in seconds."""
    woken_at: float = 0.0
    """When it began to send, or began again."""
    records: int = 0
    probed: int = 0
    """Its records up to and with its last probe."""
    probes: int = 0
    """How many of its records were probes."""
    asked: int = 0
    """Its last probe."""
    placed: bool = False
    """Whether its records overtake those of the slow class, and so take numbers behind the newest."""
    trial: bool = False
    """Whether its next record is a scout: numbered as if it overtook, but no sign that the class sends."""
    highest: int = 0
    """The highest number it was given."""
    round_trips: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    open: deque[Probe] = field(default_factory=deque)
    echoed_id: int = 0
    """The last probe that was echoed."""
    heard: Probe | None = None
    """The same, whole."""
    excused: int = 0
    """The last probe whose silence is not held against the numbers that its class is given now."""
    overtaken: int = 0
    """Its echoes in a row that came after one of a younger probe of the class taken for the slow one."""
    level: int = 0
    """Echoes of the slow class in a row that showed nothing for this one to overtake."""
    silence: float = 0.0
    """Share of probes that were not echoed, but for those that our own numbering is sure to have killed."""
    before: list[Lane] = field(default_factory=list)
    """Overtaking classes, itself included, whose records arrive before one of its own that is sent at the same time."""
    wanted: int = 0
    """The number aimed at, good until `wanted_until`."""
    wanted_until: float = float("-inf")
    loss: float = 0.0
    """Share of probes lost on the way, not counting those that our own numbering killed."""

    @property
    def delay(self) -> float | None:
        """The last round trip, in seconds."""
        return self.round_trips[-1] if self.round_trips else None

    @property
    def longest(self) -> float | None:
        """The longest of the recent round trips: the safe side for a class that overtakes."""
        return max(self.round_trips, default=None)

    @property
    def shortest(self) -> float | None:
        """The shortest of the recent round trips: its records may arrive as early as that."""
        return min(self.round_trips, default=None)

    @property
    def calm(self) -> bool:
        """Whether nearly all probes come back, so that silence is delay, most likely."""
        return self.silence <= CALM

    @property
    def doubt(self) -> int:
        """How many probes in a row may well be lost: their silence says nothing about the queue."""
        if self.loss <= CERTAINTY:
            return LEAST_DOUBT
        return max(LEAST_DOUBT, min(MOST_DOUBT, math.ceil(math.log(CERTAINTY) / math.log(min(0.97, self.loss)))))

    @property
    def certain_doubt(self) -> int:
        """How many probes in a row may well be lost, if the estimate of loss is too low."""
        return max(CERTAIN_DOUBT, self.doubt)

    def late(self, doubt: int) -> Probe | None:
        """Return the oldest open probe that is late rather than lost, if the `doubt` before it are lost."""
        for probe in self.open:
            if probe.fresh:
                if not doubt:
                    return probe
                doubt -= 1
        return None

    def late_for(self, probe_id: int) -> bool:
        """Tell whether it is certain that a later probe, with that id, overtook some of this class's."""
        late = self.late(self.certain_doubt)
        return late is not None and late.id < probe_id

    def dropped(self) -> list[Probe]:
        """Return the open probes that the receiver may have dropped for their numbers, as it would drop others now."""
        return [probe for probe in self.open if probe.id > self.excused and not probe.fresh]

    def excuse(self) -> None:
        """Hold nothing sent so far against the numbers given from now on; echoes that still come are welcome."""
        if self.open:
            self.excused = self.open[-1].id

    def opened(self, probe: Probe) -> None:
        """Wait for a probe, which is the next record of this class."""
        if len(self.open) >= MAX_OPEN:
            self.open.popleft()
        self.open.append(probe)
        self.probes += 1
        self.asked = probe.id
        self.probed = self.records + 1

    def echoed(self, probe_id: int, earliest: float, now: float, dead_below: int, surely_below: int) -> Settled | None:
        """Settle a probe and all older ones; None when it is not waited for.

        Older ones with numbers below `dead_below` were dropped by the receiver as replays, those below `surely_below`
        without doubt; the path lost the others.
        """
        if not any(probe.id == probe_id for probe in self.open):
            return None
        lost = killed = replayed = unheard = 0
        while (probe := self.open.popleft()).id != probe_id:
            unheard += probe.number >= surely_below
            if probe.number < dead_below:
                killed += 1
                replayed += self.open[0].records - probe.records
            else:
                lost += 1
        silence = unheard / (unheard + 1)
        weight = min(1.0, 0.1 * (unheard + 1)) if silence > self.silence else FORGET_SILENCE
        self.silence += (silence - self.silence) * weight
        self.loss += (lost / (lost + 1) - self.loss) * min(1.0, 0.1 * (lost + 1))
        arrival = now if self.delay is None else max(earliest, min(now, probe.sent + self.delay))
        self.round_trips.append(arrival - probe.sent)
        self.echoed_id = probe_id
        self.heard = probe
        return Settled(probe, lost + killed, replayed)

    def sent_within(self, seconds: float, now: float) -> int:
        """Return how many records it has sent in so many seconds, judged by its pace since the last echoed probe."""
        if self.heard is None or now <= self.heard.sent:
            return 0
        return round((self.records - self.heard.records) * min(1.0, seconds / (now - self.heard.sent)))

    def forget(self) -> None:
        """Start over: what was known is too old."""
        self.round_trips.clear()
        self.open.clear()
        self.loss = 0.0
        self.placed = self.trial = False
        self.overtaken = 0
