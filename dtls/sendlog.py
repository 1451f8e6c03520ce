"""Which number was the newest when: the sender's own past, which the receiver will live through later."""

from __future__ import annotations

from bisect import bisect_right

MAX_ENTRIES = 16_384
"""Bound on memory; at one entry for each STEP numbers this holds more than the longest queue."""
STEP = 4
"""Numbers between two entries: finer is lost in the noise of the network."""


class SendLog:
    """Newest number as a function of time, linear between entries (a queue evens out what was sent in a burst)."""

    def __init__(self, newest: int) -> None:
        self._times = [float("-inf")]
        self._numbers = [newest]

    def note(self, now: float, newest: int) -> None:
        """Record that `newest` was the newest number at `now`; neither may go back."""
        if newest - self._numbers[-1] < STEP:
            return
        if len(self._times) >= MAX_ENTRIES:
            del self._times[: MAX_ENTRIES // 2], self._numbers[: MAX_ENTRIES // 2]
        self._times.append(now)
        self._numbers.append(newest)

    def newest_at(self, time: float) -> int:
        """Return the newest number at `time`: the oldest known for times before the log, the last for later ones."""
        times, numbers = self._times, self._numbers
        after = bisect_right(times, time)
        if after == len(times):
            return numbers[-1]
        if after <= 1:
            return numbers[0]
        since = times[after - 1]
        low, high = numbers[after - 1], numbers[after]
        return low + int((high - low) * (time - since) / (times[after] - since))

    def pace(self, records: int = 64) -> float:
        """Return numbers per second over about the last `records` entries; 0.0 before there are two."""
        first = max(1, len(self._times) - records)
        if first >= len(self._times) - 1:
            return 0.0
        elapsed = self._times[-1] - self._times[first]
        return (self._numbers[-1] - self._numbers[first]) / elapsed if elapsed > 0 else 0.0
