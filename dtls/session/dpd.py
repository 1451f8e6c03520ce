"""When a quiet channel is to be asked whether it lives, kept warm, or given up. One object a channel; no clock.

A peer answers DPD_OUT with DPD_RESP. The server counts only what it hears on the same channel: it ends a session whose
TLS channel is silent for three times its DPD however busy DTLS is. So this asks after `dpd` seconds in which either
side was silent, and gives up after twice `dpd` seconds in which nothing at all was heard.

Other things make it ask sooner, every DOUBT_EVERY_S, and give up after `unanswered_limit` requests in a row without an
answer:

- a peer that says nothing although we have spoken for `quiet` seconds;
- `doubt`, when the network has changed or time has jumped. It begins anew with each doubt, for DOUBT_RENEWED_S at the most:
  a network that keeps changing must not put the verdict off for ever;
- a peer that was busy and has said nothing for `quiet` seconds: a client that only receives cannot tell silence from a
  dead path;
- what we send, if no request has been answered for PROOF_S: packets from the peer do not prove that ours arrive. Here it
  takes `unproven_limit` requests, because the channel does carry something, and a request may wait in a long queue.

The last two are for a peer that has answered a request before.
"""

from __future__ import annotations

import enum
import math

from qosctl.dtls.vpn.session import Timers

_REPEATS = 4
"""Unanswered requests go out again this many times within the last `dpd` seconds: one lost datagram is no death."""
DOUBT_EVERY_S = 0.75
DOUBT_RENEWED_S = 10.0
"""Time enough for a machine that moves from one network to the next."""
PROOF_S = 7.0
"""Longer than the pause between the probes of a path's size (path_mtu.CONFIRM_S), whose echoes prove it for nothing."""


class Due(enum.Enum):
    """What a channel needs now."""

    NOTHING = enum.auto()
    DPD = enum.auto()
    KEEPALIVE = enum.auto()
    DEAD = enum.auto()


class DeadPeerDetection:
    """The quiet times of one channel. Store the current time in `last_rx` and `last_tx` as frames come and go.

    With an infinite `quiet` only time and `doubt` count, as is right where the transport itself finds out what is lost.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_doubted",
        "_dpd",
        "_keepalive",
        "_quiet",
        "_unanswered",
        "_unanswered_limit",
        "_unproven",
        "_unproven_limit",
        "_wondering",
        "last_rx",
        "last_tx",
    )  # fmt: skip

    last_rx: float
    last_tx: float

    def __init__(
        self, timers: Timers, now: float, *, quiet: float = math.inf, unanswered_limit: int = 8, unproven_limit: int = 16
    ) -> None:
        self._dpd = float(timers.dpd) if timers.dpd else math.inf
        self._keepalive = float(timers.keepalive) if timers.keepalive else math.inf
        self._quiet = quiet
        self._unanswered_limit = unanswered_limit
        self._unproven_limit = unproven_limit
        self.last_rx = self.last_tx = now
        self._asked = self._doubted = self._wondering = -math.inf
        self._answered = math.inf  # nothing is to be proven before the first answer
        self._unanswered = self._unproven = 0

    def answered(self, now: float) -> None:
        """Take note of an answer to a request of any kind: we are heard."""
        if self._quiet < math.inf:
            self._answered = now
        self._unproven = 0

    def due(self, now: float) -> Due:
        """Say what is due, and take it as done: a DPD or a keepalive asked for here counts as said now."""
        if self._asked <= self.last_rx:
            self._unanswered = 0
        if now >= self.last_rx + 2 * self._dpd or (now >= self._asked + DOUBT_EVERY_S and self._given_up(now)):
            return Due.DEAD
        if now >= self._next_request():
            self._asked = self.last_tx = now
            self._unanswered += 1
            self._unproven += 1
            return Due.DPD
        if now >= self.last_tx + self._keepalive:
            self.last_tx = now
            return Due.KEEPALIVE
        return Due.NOTHING

    def doubt(self, now: float) -> None:
        """Ask at once, and go on asking until something is heard."""
        if self._doubted <= self.last_rx:
            self._wondering = now  # since when, without a word
        elif now >= self._wondering + DOUBT_RENEWED_S:
            return
        self._doubted = now
        self._asked = -math.inf

    def next_time(self) -> float:
        """Return when `due` next has something to say, if nothing is heard or said until then; may be infinite."""
        return min(self.last_rx + 2 * self._dpd, self._next_request(), self.last_tx + self._keepalive)

    def _given_up(self, now: float) -> bool:
        silent = self._doubted > self.last_rx or (self.last_tx > self.last_rx and now >= self.last_rx + self._quiet)
        unheard = self.last_tx > self._answered and now >= self._answered + PROOF_S
        return (silent and self._unanswered >= self._unanswered_limit) or (
            unheard and self._unproven >= self._unproven_limit
        )

    def _next_request(self) -> float:
        usual = max(min(self.last_rx, self.last_tx) + self._dpd, self._asked + self._dpd / _REPEATS)
        sooner = math.inf
        if self._doubted > self.last_rx:
            sooner = self._doubted
        elif self.last_tx > self.last_rx or self.last_rx > self._answered:
            sooner = self.last_rx + self._quiet
        if self.last_tx > self._answered:
            sooner = min(sooner, self._answered + PROOF_S)
        return min(usual, max(sooner, self._asked + DOUBT_EVERY_S))
