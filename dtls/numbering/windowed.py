"""Extremes of the recent past, which paths change: the shortest round trip, the highest delivery rate.

Both are kept as BBR keeps them (draft-ietf-ccwg-bbr, sections 5.5.5 and 5.5.13): over a window of time, here of one
to two lengths of it.
"""

from __future__ import annotations

from collections import deque
from math import inf

MIN_RTT_S = 5.0
"""A shortest round trip is remembered for once to twice this time: paths change."""
RATE_S = 2.0
"""The same of a highest rate. A link that becomes slower costs bulk for so long."""
LEAST_S, LEAST_NUMBERS = 0.005, 256
"""Echoes closer than this tell the noise of machines, or how a video's frames share the link with bulk, not a rate."""
ECHOES = 64
"""Echoes that are looked back at to find one so long ago."""


class RoundTrips:
    """The shortest and the longest round trip of the last MIN_RTT_S to twice that, in seconds."""

    __slots__ = ("_began", "_longest", "_longest_before", "_shortest", "_shortest_before")

    def __init__(self) -> None:
        self._began = -inf
        self._shortest = self._shortest_before = inf
        self._longest = self._longest_before = 0.0

    def add(self, rtt: float, at_least: float, now: float) -> None:
        """Take one more, of which is only sure that it was not shorter than `at_least`."""
        if now - self._began > MIN_RTT_S:
            self._shortest_before, self._shortest = self._shortest, inf
            self._longest_before, self._longest = self._longest, 0.0
            self._began = now
        self._shortest = min(self._shortest, rtt)
        self._longest = max(self._longest, at_least)

    @property
    def shortest(self) -> float:
        """The minimum; inf before the first."""
        return min(self._shortest, self._shortest_before)

    @property
    def spread(self) -> float:
        """How much longer the longest was, at the least."""
        return max(0.0, max(self._longest, self._longest_before) - self.shortest)


class DeliveryRate:
    """The highest rate of the last RATE_S to twice that, at which a class's numbers arrived."""

    __slots__ = ("_before", "_began", "_echoes", "_now")

    def __init__(self) -> None:
        self._echoes: deque[tuple[float, int]] = deque(maxlen=ECHOES)
        self._began = -inf
        self._now = self._before = 0.0

    def add(self, number: int, earliest: float, now: float) -> None:
        """Take an echo of a probe with this number, which came between `earliest` and `now`."""
        if now - self._began > RATE_S:
            self._before, self._now, self._began = self._now, 0.0, now
        for heard, before in reversed(self._echoes):
            if earliest - heard >= LEAST_S and number - before >= LEAST_NUMBERS:
                self._now = max(self._now, (number - before) / (earliest - heard))
                break
        self._echoes.append((now, number))

    @property
    def numbers_per_s(self) -> float:
        """The maximum; 0.0 before there is one."""
        return max(self._now, self._before)
