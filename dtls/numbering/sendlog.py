"""The sender's own past, which the receiver will live through later: numbers and records as functions of time."""

from __future__ import annotations

from bisect import bisect_right

MAX_ENTRIES = 16_384
"""Bound on memory; at one entry for each STEP numbers this holds more than the longest queue."""
STEP = 4
"""Numbers between two entries: finer is lost in the noise of the network."""
PACE_ENTRIES = 64
"""Entries that the present pace is judged by."""


class SendLog:
    """What was sent until when, linear between entries: a queue evens out what was sent in a burst.

    Counts are cumulative: `bulk` of the slow class, `overtaking` of all others. `highest` is the highest number that one
    of these was given to overtake.
    """

    def __init__(self, newest: int) -> None:
        self._times = [float("-inf")]
        self._numbers = [newest]
        self._bulk = [0]
        self._overtaking = [0]
        self._highest = [0]

    def note(self, now: float, newest: int, bulk: int, overtaking: int, highest: int) -> None:
        """Record the state at `now`; nothing may go back. Once for every STEP numbers is enough."""
        if len(self._times) >= MAX_ENTRIES:
            for column in (self._times, self._numbers, self._bulk, self._overtaking, self._highest):
                del column[: MAX_ENTRIES // 2]
        self._times.append(now)
        self._numbers.append(newest)
        self._bulk.append(bulk)
        self._overtaking.append(overtaking)
        self._highest.append(highest)

    def newest_at(self, time: float) -> int:
        """Return the newest number at `time`; the first or last known outside the log."""
        return self._at(time, self._numbers)

    def overtaking_at(self, time: float) -> int:
        """Return how many overtaking records had been sent at `time`."""
        return self._at(time, self._overtaking)

    def highest_at(self, time: float) -> int:
        """Return the highest number that an overtaking record had been given at `time`."""
        return self._highest[max(0, bisect_right(self._times, time) - 1)]

    def slow_at(self, time: float) -> int:
        """Return how many records of the slow class had been sent at `time`."""
        return self._at(time, self._bulk)

    def newest_when(self, bulk: float) -> int:
        """Return the newest number at the time when `bulk` bulk records had been sent."""
        after = bisect_right(self._bulk, bulk)
        if after == len(self._bulk):
            return self._numbers[-1]
        if after == 0:
            return self._numbers[0]
        since = self._bulk[after - 1]
        low = self._numbers[after - 1]
        return low + int((self._numbers[after] - low) * (bulk - since) / (self._bulk[after] - since))

    def pace(self) -> float:
        """Return numbers per second at present; 0.0 before there are two entries."""
        first = max(1, len(self._times) - PACE_ENTRIES)
        if first >= len(self._times) - 1:
            return 0.0
        elapsed = self._times[-1] - self._times[first]
        return (self._numbers[-1] - self._numbers[first]) / elapsed if elapsed > 0 else 0.0

    def _at(self, time: float, column: list[int]) -> int:
        after = bisect_right(self._times, time)
        if after == len(column):
            return column[-1]
        if after <= 1:
            return column[0]
        since = self._times[after - 1]
        low = column[after - 1]
        return low + int((column[after] - low) * (time - since) / (self._times[after] - since))
