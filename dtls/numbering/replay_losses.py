"""Counts what the receiver has dropped for its number, as far as echoes tell: the one place that does.

Probes are a sample of their class: each stands for the records since the one before it, and for itself. A probe is missing
if a younger one of its class came back, or if it is overdue by far. It was

    dropped for its number   if a number a window above may have arrived before it: so are the records it stands for
    lost on the way          if none may: this tells which share of the others is lost so, and not dropped for the number

Between two probes that came back some records may be, in a burst above all, of which probes see the ends. The receiver
moved from one probe that came back to the next, evenly, through what was sent between; it dropped what was a window or more
below a number that had overtaken it by then. If probes come back that were too low, the window is wider than we know, or we
err of the times: then so much less of this is suspected.

Records with low numbers are few, and judged one by one: when a number a window above comes back while they cannot have
arrived yet, they are dropped.

Nothing tells a probe that was dropped from one that was lost where both could be: a class that starves in a queue that
drops it, or whose small probes find room where its packets do not, is taken for one that arrives and is dropped. And
nothing at all is known where no echo comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from qosctl.dtls.numbering.class_path import Answered, ClassPath, Probe

KEEP_S = 2.0
"""For so long the low numbers of a class are remembered."""
STEP_RECORDS, MOST_STEPS = 8, 16
"""How finely it is looked at what is between two probes."""
OVERDUE_S = 0.1
"""Longer than its recent round trips by this, a probe counts as missing."""
MEMORY = 0.95
"""What the share of probes that arrive keeps of itself with each new one: about twenty count."""


@dataclass(frozen=True, slots=True)
class LowRecords:
    """Records that were given numbers behind the newest, of one class and at one time."""

    path: ClassPath
    sent: float
    lowest: int
    count: int


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """When the echo of a class's record would have come, had it been a probe: one after the other, evenly."""

    first: float
    pace: float

    def at(self, records: float) -> float:
        """Return it for the one after so many others."""
        return self.first + self.pace * records


class ReplayLosses:
    """Counts records, probes among them."""

    def __init__(self, paths: Collection[ClassPath], window: int) -> None:
        self._paths = paths
        self.window = window
        self._counted = 0.0
        self._between = 0.0  # the same of what is between probes that were not dropped
        self._right = self._wrong = 0  # probes that were too low, and did not, or did, come back
        self._low: deque[LowRecords] = deque()

    def sent_low(self, path: ClassPath, now: float, lowest: int, count: int) -> None:
        """Remember what may be lost yet."""
        self._low.append(LowRecords(path, now, lowest, count))
        while self._low[0].sent < now - KEEP_S:
            self._low.popleft()

    def settled(self, path: ClassPath, answered: Answered, now: float) -> None:
        """Count what an echo shows to be dropped of its own class: it settles all older probes."""
        for each in answered.missed:
            if self._overtaken(path, each.number, path.heard_at):
                self._right += 1
                self._counted += _stands_for(each) * path.arrived
            else:
                path.arrived *= MEMORY
        path.arrived += (1 - path.arrived) * (1 - MEMORY)
        before, probe = answered.before, answered.probe
        if before is None or answered.missed or probe.behind:
            return
        heard = min(before.sent + answered.before_rtt, now)
        pace = (now - heard) / max(1, probe.records - before.records)
        arrivals = _Arrivals(heard - pace * before.records, pace)
        if self._overtaken(path, probe.number, min(now, max(probe.sent + path.min_rtt, arrivals.at(probe.records)))):
            self._wrong += 1
        else:
            self._count_between(path, before, probe, arrivals, now)

    def _count_between(self, path: ClassPath, before: Probe, probe: Probe, arrivals: _Arrivals, now: float) -> None:
        records, numbers = probe.records - before.records, probe.number - before.number
        if records <= 0 or numbers <= 0:
            return
        steps = max(1, min(MOST_STEPS, records // STEP_RECORDS))
        too_low = 0
        for step in range(steps):
            share = (step + 0.5) / steps
            number = before.number + int(share * numbers)
            earliest = path.history.sent_beyond(number - 1) + path.min_rtt
            too_low += self._overtaken(path, number, min(now, max(earliest, arrivals.at(before.records + share * records))))
        self._between += too_low / steps * records * path.arrived

    def overtaken(self, path: ClassPath, probe: Probe, now: float) -> set[ClassPath]:
        """Count what was not there yet when `probe` arrived, and too low then. Return the classes that lost something."""
        lost = [
            each
            for each in self._low
            if each.path is not path and each.lowest <= probe.number - self.window and each.sent + each.path.min_rtt > now
        ]
        for each in lost:
            self._counted += each.count
            self._low.remove(each)
        return {each.path for each in lost}

    def suspected(self, now: float) -> int:
        """Return how many records were dropped, those included of which only silence tells."""
        between = self._between * (self._right + 1) / (self._right + 1 + self._wrong)
        return round(self._counted + between + sum(self._silent(path, now) for path in self._paths))

    def _silent(self, path: ClassPath, now: float) -> float:
        """Return the records that are overdue, and were overtaken by more urgent ones: others may starve."""
        overdue = now - path.longest_rtt - OVERDUE_S
        return path.arrived * sum(
            _stands_for(probe)
            for probe in path.unanswered
            if probe.sent < overdue and self._overtaken(path, probe.number, now, urgent=True)
        )

    def _overtaken(self, path: ClassPath, number: int, time: float, *, urgent: bool = False) -> bool:
        """Tell whether a number a window above this one had arrived in another class, with what came back at `time`."""
        return any(
            other.history.highest_at(time - other.rtt) - self.window >= number
            for other in self._paths
            if other is not path and other.rtt is not None and not (urgent and other.less_urgent_than(path))
        )


def _stands_for(probe: Probe) -> int:
    """Return the records whose fate is that of a probe. Those of a class with low numbers are judged one by one."""
    return 1 if probe.behind else 1 + probe.records - probe.records_before
