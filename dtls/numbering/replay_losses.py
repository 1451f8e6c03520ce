"""Counts what the receiver has dropped for its number, as far as echoes tell: the one place that does.

The receiver moved from one probe that came back to the next, evenly, through what was sent between. It dropped what was a
window or more below a number that had overtaken it by then. Of the records between two probes

    both came back                as many as were too low by then, but none if the later probe was, and came back
    the later one did not, and    the same, but for the share that is lost on the way: as many as of those probes that
      was too low, or was not       nothing had overtaken

Of probes that are only overdue, silence tells: they are dropped if a number a window above has come back by now. Records
with low numbers are few, and judged one by one: when a number a window above comes back while they cannot have arrived yet,
they are dropped.

If probes come back that were too low, the window is wider than we know, or we err of the times: then so much less is
suspected. Nothing tells a probe that was dropped from one that was lost where both could be, and nothing at all is known
where no echo comes.
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
        self._right = self._wrong = 0  # probes that were too low, and did not, or did, come back
        self._low: deque[LowRecords] = deque()

    def sent_low(self, path: ClassPath, now: float, lowest: int, count: int) -> None:
        """Remember what may be lost yet."""
        self._low.append(LowRecords(path, now, lowest, count))
        while self._low[0].sent < now - KEEP_S:
            self._low.popleft()

    def settled(self, path: ClassPath, answered: Answered, now: float) -> None:
        """Count what an echo shows to be dropped of its own class: it settles all older probes."""
        before, probe = answered.before, answered.probe
        if before is None:
            return
        heard = min(before.sent + answered.before_rtt, now)
        pace = (now - heard) / max(1, probe.records - before.records)
        arrivals = _Arrivals(heard - pace * before.records, pace)
        for each in (*answered.missed, probe):
            self._segment(path, before, each, arrivals, now, came=each is probe)
            before = each

    def _segment(  # noqa: PLR0913  (two probes, and how the records between them arrived)
        self, path: ClassPath, before: Probe, probe: Probe, arrivals: _Arrivals, now: float, *, came: bool
    ) -> None:
        """Count what was dropped between two probes, and the later one."""
        time = max(probe.sent + path.min_rtt, arrivals.at(probe.records))
        dropped = self._dropped(path, probe.number, min(now, time), now)
        if not dropped:
            path.arrived += (came - path.arrived) * (1 - MEMORY)
        if came and dropped:
            self._wrong += 1
            return
        self._right += dropped
        self._counted += dropped
        records, numbers = probe.records - before.records, probe.number - before.number
        if probe.behind or records <= 0 or numbers <= 0:
            return
        steps = max(1, min(MOST_STEPS, records // STEP_RECORDS))
        too_low = 0
        for step in range(steps):
            share = (step + 0.5) / steps
            number = before.number + int(share * numbers)
            earliest = path.history.sent_beyond(number - 1) + path.min_rtt
            time = min(now, max(earliest, arrivals.at(before.records + share * records)))
            too_low += self._dropped(path, number, time, now)
        self._counted += too_low / steps * records * path.arrived

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
        silent = [self._silent(path, now) for path in self._paths]
        right = self._right + 1 + sum(probes for _, probes in silent)
        return round((self._counted + sum(records for records, _ in silent)) * right / (right + self._wrong))

    def _silent(self, path: ClassPath, now: float) -> tuple[float, int]:
        """Return records, and probes, that are overdue, and were overtaken by more urgent ones: others may starve."""
        overdue = now - path.longest_rtt - OVERDUE_S
        probes = [
            probe
            for probe in path.unanswered
            if probe.sent < overdue and self._dropped(path, probe.number, now, now, urgent=True)
        ]
        records = sum(0 if probe.behind else probe.records - probe.records_before for probe in probes)
        return records * path.arrived + len(probes), len(probes)

    def _dropped(self, path: ClassPath, number: int, time: float, now: float, *, urgent: bool = False) -> bool:
        """Tell whether a number a window above this one had arrived in another class, with what came back at `time`."""
        return any(
            other.history.highest_at(time - other.rtt_at_most(now, 0)) - self.window >= number
            for other in self._paths
            if other is not path and other.last is not None and not (urgent and other.less_urgent_than(path))
        )
