"""Extremes of the recent past, which paths change: the shortest round trip, and the longest.

They are kept as BBR keeps its own (draft-ietf-ccwg-bbr, section 5.5.5): over a window of time, here of one to two lengths
of it.
"""

from __future__ import annotations

from math import inf

MIN_RTT_S = 5.0
"""A shortest round trip is remembered for once to twice this time: paths change."""


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
