"""What a class was sent until when: the receiver will live through the sender's own past.

Each answer errs to the same side, the late one: a number counts as sent no later than it was.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import inf

MAX_ENTRIES = 16_384
"""Bound on memory; at one entry for each RESOLUTION_S at the most it holds three seconds and more."""
RESOLUTION_S = 0.0002
"""What is sent within this time of an entry counts as sent with it: finer is lost in the noise of a machine."""


class SendHistory:
    """The highest number and the records of one class, as functions of time in seconds."""

    __slots__ = ("_numbers", "_records", "_times")

    def __init__(self) -> None:
        self._times = [-inf]
        self._numbers = [0]
        self._records = [0]

    def note(self, now: float, highest: int, records: int) -> None:
        """Record that `records` have been sent by `now`, with numbers up to `highest`; neither may go back."""
        if now - self._times[-1] < RESOLUTION_S:
            self._numbers[-1] = highest
            self._records[-1] = records
            return
        if len(self._times) >= MAX_ENTRIES:
            for column in (self._times, self._numbers, self._records):
                del column[: MAX_ENTRIES // 2]
        self._times.append(now)
        self._numbers.append(highest)
        self._records.append(records)

    def highest_at(self, time: float) -> int:
        """Return the highest number sent at `time` or earlier; the first one known if that is longer ago."""
        return self._numbers[max(0, bisect_right(self._times, time) - 1)]

    def highest_before(self, time: float) -> int:
        """Return the highest number sent earlier than `time`."""
        return self._numbers[max(0, bisect_left(self._times, time) - 1)]

    def records_at(self, time: float) -> int:
        """Return how many records had been sent at `time`."""
        return self._records[max(0, bisect_right(self._times, time) - 1)]

    def sent_beyond(self, number: int) -> float:
        """Return when a number above this one was first sent; inf if none was."""
        after = bisect_right(self._numbers, number)
        return self._times[after] if after < len(self._times) else inf
