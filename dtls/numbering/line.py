"""The line of numbers: the next new one, the gaps left behind, and when each number was new."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from qosctl.dtls.numbering.gaps import GapReserve
from qosctl.dtls.numbering.plain import end_of_epoch, exhausted
from qosctl.dtls.numbering.sendlog import SendLog

RUN = 16
"""Consecutive numbers between two gaps, at the most."""
BLOCK = 8
"""Numbers in one gap, unless a single slow record needs more."""
LEAST_GAPS = 1 / 16
"""Gap numbers for each new one, at the least."""
SPARE, SPARE_IN_QUEUE = 4, 8
"""Numbers in each gap while nothing overtakes: for what will, and nothing is lost by them until then. Behind a queue there
must be enough for a video from its first frame on, a third of bulk's packets."""
SURPLUS = 1.2
"""Gap numbers for each overtaking record."""
CATCH_UP = 2.0
"""Times as many gaps while overtaking records wait at a late probe, so that they climb slower than bulk does."""
MOST_OVERTAKING = 12.0
"""Overtaking records for each slow one beyond which no more gaps are left."""
SPAN = 32
"""Slow records over which the overtaking ones are counted."""
MOST_BELOW = 24
"""Numbers by which the first of a burst may lie below the place aimed at."""
NOTE_EVERY = 0.0003
"""Seconds between two entries of the log."""


class Line:
    """Hands out every number of an epoch at most once: new ones in ascending order, those of gaps on demand."""

    def __init__(self, first: int) -> None:
        self.newest = first - 1
        """The highest number used."""
        self.slow = self.others = 0
        """Records of the slow class, and of all others."""
        self.overtook = 0
        """The highest number of a record that overtook."""
        self.log = SendLog(self.newest)
        self.gaps = GapReserve()
        self._limit = end_of_epoch(first)
        self._noted_at = float("-inf")
        self._run, self._block, self._left = RUN, SPARE, RUN
        self._slack = RUN
        self._ratio = 0.0
        self._planned_slow = self._planned_others = 0

    def fresh(self, count: int, now: float) -> Sequence[int]:
        """Return `count` new numbers; the caller counts the records. NumbersExhaustedError at the end."""
        if now - self._noted_at > NOTE_EVERY:
            self.note(now)
        if self._left <= 0:
            self._leave_gap(count)
        start = self.newest + 1
        if count <= self._left + self._slack:
            end = start + count
            if end > self._limit:
                raise exhausted(self._limit)
            self._left -= count
            self.newest = end - 1
            return range(start, end)
        return self._with_gaps(count)

    def between(self, wanted: int, count: int, below: int) -> list[int]:
        """Return up to `count` numbers from the gaps around `wanted`, for overtaking records: a burst is centred on it.

        The first lies at most `below` under that, and only where no gap is close above.
        """
        self.others += count
        if count > 1:
            wanted -= min(MOST_BELOW, (count - 1) * (self._run + self._block) // (2 * self._block))
        return self.gaps.take(wanted, count, below)

    def more(self, count: int) -> Sequence[int]:
        """Return new numbers for what `between` had none for."""
        self._left -= count
        start = self.newest + 1
        if start + count > self._limit:
            raise exhausted(self._limit)
        self.newest += count
        return range(start, start + count)

    def note(self, now: float) -> None:
        """Log what was sent before `now`.

        Before and not after what is sent now: a burst leaves the queue between its own time and the next one's, and
        so the log's straight lines go through the burst, from where the probe in front of it was sent.
        """
        self._noted_at = now
        self.log.note(now, self.newest, self.slow, self.others, self.overtook)

    def plan(self, *, queued: bool, overtaken: bool, waiting: bool) -> None:
        """Decide how many numbers to leave free, from what has lately been overtaking: up fast, down slowly."""
        if not overtaken:
            self._run, self._block, self._slack = RUN, SPARE, RUN
            if queued:
                self._block, self._slack = SPARE_IN_QUEUE, 0
            self._left = min(self._left, RUN)
            self._planned_slow, self._planned_others = self.slow, self.others
            self._ratio = self._block / RUN  # for what begins now, until it is known how much it is
            return
        slow, others = self.slow - self._planned_slow, self.others - self._planned_others
        if slow >= SPAN:
            self._planned_slow, self._planned_others = self.slow, self.others
            ratio = min(MOST_OVERTAKING, others / slow)
            self._ratio += (ratio - self._ratio) * (0.5 if ratio > self._ratio else 0.1)
        share = LEAST_GAPS + SURPLUS * self._ratio * (CATCH_UP if waiting else 1.0)
        self._run = RUN if share * RUN <= BLOCK else max(1, int(BLOCK / share))
        self._block = max(1, ceil(self._run * share))
        self._slack = 0
        self._left = min(self._left, self._run)

    def _leave_gap(self, count: int) -> None:
        start = self.newest + 1
        end = min(start + self._block, self._limit - count)
        if end > start:
            self.gaps.add(start, end)
            self.newest = end - 1
        self._left = self._run

    def _with_gaps(self, count: int) -> list[int]:
        if self.newest + 1 + count > self._limit:
            raise exhausted(self._limit)
        numbers: list[int] = []
        while count:
            if self._left <= 0:
                self._leave_gap(count)
            start = self.newest + 1
            part = min(count, self._left)
            numbers.extend(range(start, start + part))
            self.newest += part
            self._left -= part
            count -= part
        return numbers
