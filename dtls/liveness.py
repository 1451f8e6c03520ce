"""When a quiet channel is to be asked whether it lives, kept warm, or given up. One object a channel; no clock.

A peer answers DPD_OUT with DPD_RESP. The server counts only what it hears on the same channel: it ends a session whose
TLS channel is silent for three times its DPD however busy DTLS is. So this asks after `dpd` seconds in which either
side was silent, and gives up after twice `dpd` seconds in which nothing at all was heard.
"""

from __future__ import annotations

import enum
import math

from qosctl.dtls.session import Timers

_REPEATS = 4
"""Unanswered requests go out again this many times within the last `dpd` seconds: one lost datagram is no death."""


class Due(enum.Enum):
    """What a channel needs now."""

    NOTHING = enum.auto()
    DPD = enum.auto()
    KEEPALIVE = enum.auto()
    DEAD = enum.auto()


class Liveness:
    """The quiet times of one channel. Store the current time in `heard` and `said` as frames come and go."""

    __slots__ = ("_asked", "_dpd", "_keepalive", "heard", "said")

    heard: float
    said: float

    def __init__(self, timers: Timers, now: float) -> None:
        self._dpd = float(timers.dpd) if timers.dpd else math.inf
        self._keepalive = float(timers.keepalive) if timers.keepalive else math.inf
        self.heard = self.said = now
        self._asked = -math.inf

    def due(self, now: float) -> Due:
        """Say what is due, and take it as done: a DPD or a keepalive asked for here counts as said now."""
        if now >= self.heard + 2 * self._dpd:
            return Due.DEAD
        if now >= self._next_request():
            self._asked = self.said = now
            return Due.DPD
        if now >= self.said + self._keepalive:
            self.said = now
            return Due.KEEPALIVE
        return Due.NOTHING

    def next_time(self) -> float:
        """Return when `due` next has something to say, if nothing is heard or said until then; may be infinite."""
        return min(self.heard + 2 * self._dpd, self._next_request(), self.said + self._keepalive)

    def _next_request(self) -> float:
        return max(min(self.heard, self.said) + self._dpd, self._asked + self._dpd / _REPEATS)
