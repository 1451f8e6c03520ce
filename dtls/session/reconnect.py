"""When a session ended: how long to wait, whether to log in anew, and when to give up. No I/O, no clock.

    session ends --> attempt at once --> it works: up again; at once only if it then lives for a while
                          |
                          +-- nobody answers ----------> wait (bounded, jittered), attempt again
                          +-- no room at the server ---> wait longer and longer, attempt again with the same cookie
                          +-- cookie refused ----------> log in anew, if there is a password; else the end
                          +-- cookie refused at once
                          |   after a disconnect -------> somebody ended it on purpose: the end, with the server's words
                          +-- password refused --------> the end
                    +-- password not answered ---> wait for very long: it may count as refused

`now` comes in, in seconds of any monotonic clock, and so does chance.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from qosctl.bpf.errors import (
    DismissedError,
    InternalError,
    NoPermissionError,
    NoRoomError,
    NotAttachedError,
    QosctlError,
    ShortageError,
    UsageError,
)
from qosctl.dtls.transport.certificate_check import UntrustedError
from qosctl.dtls.transport.outer_sockets import NoSocketError
from qosctl.dtls.vpn.errors import CookieRefusedError, LoginError, PasswordUnansweredError
from qosctl.dtls.vpn.http import ResponseError

FIRST_WAIT_S = 0.25
WAIT_MAX_S = 4.0
"""Ceiling of the wait while the outage is young: a server that is back is found within five seconds."""
LONG_OUTAGE_S = 600.0
LONG_WAIT_MAX_S = 30.0
"""Ceiling after LONG_OUTAGE_S: many clients of a server that is gone for good must not keep its address busy."""
SETTLED_S = 5.0
"""A session that has lived for so long counts as one; it is connect_response.REKEY_MIN_S, at which new keys may be due."""
REFUSALS_MAX = 20
"""How often in a row a server that answers may refuse for reasons of its own before it is believed."""
NO_ROOM_WAIT_S, NO_ROOM_WAIT_MAX_S = 2.0, 60.0
"""First and longest wait for room at a server. Each try costs the server a handshake, and some count it towards a ban."""
UNANSWERED_WAITS_S = 60.0, 900.0
"""First and further waits before a password is sent again that nobody has answered: it may be a wrong one, or somebody's
telephone asks about it. Common locks count five within a quarter of an hour or more."""
FULL_PATIENCE_S = 600.0
"""How long a client that never had a session waits for room: a server frees what a dead client held after 3 x its DPD
time, which is 270 s as Debian ships ocserv."""
HURRIES, HURRY_AGAIN_S, HURRY_EVERY_S = 5, 10.0, 1.0
"""So many attempts that news bring forward, one more after each 10 s, and 1 s between two."""
SETTLE_S = 0.1
"""News come in bursts: an address goes, a route goes, another comes."""
_FATAL = (UsageError, NoPermissionError, LoginError, NoSocketError)
_SOMEBODY_ELSE = (NotAttachedError, UntrustedError, ResponseError)
"""Nobody answered, or not the server: the page of a hotel's network, say, which goes away."""
_PASSING = (NoRoomError, ShortageError, InternalError)
"""Nothing that the server has against us."""


class Reason(enum.Enum):
    """Why a session ended although nobody here wanted it to; the value is what metrics call it."""

    SERVER_CLOSED = "server_closed"
    """The TLS channel broke or was closed."""
    SERVER_SILENT = "server_silent"
    """Nothing came over TLS any more."""
    SERVER_GOODBYE = "server_goodbye"
    """The server said that the session is over."""
    SESSION_TIMEOUT = "session_timeout"
    """As before, when the time that the server gave the session was up."""
    ADDRESS_CHANGED = "address_changed"
    """The address we sent from is no longer the one that leads to the server."""
    REKEY = "rekey"
    """The server wants new keys at times."""
    PATH_MTU = "path_mtu"
    """The path takes less than the session was made for, and the server has to know."""
    BROKEN = "broken"
    """What came made no sense, or what we made of it."""


class Backoff:
    """Waits that double up to a bound, each shortened by up to half at random, so that clients do not march in step."""

    def __init__(self, random: Callable[[], float], first_s: float = FIRST_WAIT_S) -> None:
        """`random` gives numbers from 0 to 1; `first_s` is the first wait that is one."""
        self._random = random
        self._first_s = first_s
        self._wait = 0.0

    def next_wait(self, most_s: float) -> float:
        """Return how long to wait now, in seconds and `most_s` at the most; the first time not at all."""
        wait = self._wait
        self._wait = min(max(self._first_s, 2 * wait), most_s)
        return min(wait, most_s) * (1 - self._random() / 2)

    def reset(self) -> None:
        """Begin again without waiting: it went well for long enough."""
        self._wait = 0.0


class Hurry:
    """How far news of the network bring an attempt forward: soon, but not for each of a thousand.

    A container host makes links all day, and each of them is news. So there are a few quick attempts, which come back
    one by one, never two within a second; the growing waits go on growing meanwhile.
    """

    def __init__(self, few: int = HURRIES, again_s: float = HURRY_AGAIN_S) -> None:
        self._few = self._left = float(few)
        self._again_s = again_s
        self._at = self._counted = -math.inf

    def sooner(self, now: float, until: float) -> float:
        """Return when to try after news at `now`, where it was to be tried at `until`."""
        self._left = min(self._few, self._left + (now - self._counted) / self._again_s)
        self._counted = now
        at = max(now + SETTLE_S, self._at + HURRY_EVERY_S, now + (1 - self._left) * self._again_s)
        if at >= until:
            return until
        self._left -= 1
        self._at = at
        return at


class Recovery:
    """The way back to a session that lives: tell it of each that was `lost`, and ask `after` each attempt that failed.

    The waits go on growing over sessions that end as soon as they begin: a server or a balancer that accepts and closes
    would otherwise be called, and the machine's routes set, hundreds of times a second.
    """

    def __init__(self, *, can_log_in: bool, patience_s: float, random: Callable[[], float]) -> None:
        """`patience_s` bounds the time without a session, and may be infinite."""
        self._can_log_in = can_log_in
        self._patience_s = patience_s
        self._backoff = Backoff(random)
        self._no_room = Backoff(random, NO_ROOM_WAIT_S)
        self._reason: Reason | None = None
        self._error: QosctlError | None = None
        self._began: float | None = None
        self._deadline = math.inf
        self._unreached = False
        self._refusals = self._unanswered = 0
        self._log_in = False

    def must_log_in(self) -> bool:
        """Whether the next attempt has to log in, because the server does not know the cookie any more; said once."""
        log_in, self._log_in = self._log_in, False
        return log_in

    def first(self, now: float) -> None:
        """There was no session yet, and the server has no room for one."""
        self._began, self._deadline = now, now + min(self._patience_s, FULL_PATIENCE_S)

    def lost(self, reason: Reason, error: QosctlError, *, lived_s: float, now: float) -> float:
        """Return how many seconds to wait before the first attempt; `error` says how a session of `lived_s` ended."""
        self._reason, self._error = reason, error
        self._unreached = self._log_in = False
        self._refusals = self._unanswered = 0
        self._no_room.reset()
        self._deadline = now + self._patience_s
        if lived_s >= SETTLED_S or self._began is None:
            self._began = now
            self._backoff.reset()
        return self._next_wait(now)

    def after(self, failure: QosctlError, now: float) -> float:
        """Return how many seconds to wait before the next attempt; raises what the user is to see when none is due."""
        if isinstance(failure, _FATAL):
            raise failure
        if isinstance(failure, CookieRefusedError):
            self._take_refusal(failure)
        elif isinstance(failure, _SOMEBODY_ELSE):
            self._unreached = True
            self._refusals = 0
        elif not isinstance(failure, _PASSING):
            self._refusals += 1
        if self._refusals > REFUSALS_MAX or now >= self._deadline:
            raise failure
        if isinstance(failure, PasswordUnansweredError):
            self._unanswered += 1
            return UNANSWERED_WAITS_S[self._unanswered > 1]
        if isinstance(failure, NoRoomError):
            return max(NO_ROOM_WAIT_S / 2, self._no_room.next_wait(NO_ROOM_WAIT_MAX_S))
        if self._log_in:
            return 0.0
        return self._next_wait(now)

    def _next_wait(self, now: float) -> float:
        assert self._began is not None  # an attempt follows `first` or `lost`
        return self._backoff.next_wait(WAIT_MAX_S if now < self._began + LONG_OUTAGE_S else LONG_WAIT_MAX_S)

    def _take_refusal(self, failure: CookieRefusedError) -> None:
        if self._reason is Reason.SERVER_GOODBYE and not self._unreached and self._error is not None:
            raise DismissedError(self._error.message, self._error.hint) from self._error
        if not self._can_log_in:
            raise failure
        self._log_in = True
