"""When a session ended: how long to wait, whether to log in anew, and when to give up. No I/O, no clock.

    session ends --> attempt at once --> it works: up again
                          |
                          +-- nobody answers ----------> wait (bounded, jittered), attempt again
                          +-- cookie refused ----------> log in anew, if there is a password; else the end
                          +-- cookie refused at once
                          |   after a goodbye ---------> somebody ended it on purpose: the end, with the server's words
                          +-- password refused --------> the end

`now` comes in, in seconds of any monotonic clock, and so does chance.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from qosctl.bpf.errors import NoPermissionError, NotAttachedError, QosctlError, UsageError
from qosctl.dtls.anyconnect import LoginError
from qosctl.dtls.https import ResponseError
from qosctl.dtls.session import CookieRefusedError, NoDtlsError
from qosctl.dtls.trust import UntrustedError

FIRST_WAIT_S = 0.25
WAIT_MAX_S = 4.0
"""Ceiling of the wait while the outage is young: a server that is back is found within five seconds."""
LONG_OUTAGE_S = 600.0
LONG_WAIT_MAX_S = 30.0
"""Ceiling after LONG_OUTAGE_S: many clients of a server that is gone for good must not keep its address busy."""
REFUSALS_MAX = 20
"""How often in a row a server that answers may refuse for reasons of its own before it is believed."""
_FATAL = (UsageError, NoPermissionError, NoDtlsError, LoginError)
_SOMEBODY_ELSE = (NotAttachedError, UntrustedError, ResponseError)
"""Nobody answered, or not the server: the page of a hotel's network, say, which goes away."""


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
    """What came made no sense."""


class Backoff:
    """Waits that double up to a bound, each shortened by up to half at random, so that clients do not march in step."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` gives numbers from 0 to 1."""
        self._random = random
        self._wait = 0.0

    def next_wait(self, outage_s: float) -> float:
        """Return how long to wait now, in seconds; the first time not at all."""
        wait = self._wait
        most = WAIT_MAX_S if outage_s < LONG_OUTAGE_S else LONG_WAIT_MAX_S
        self._wait = min(max(FIRST_WAIT_S, 2 * wait), most)
        return min(wait, most) * (1 - self._random() / 2)

    def reset(self) -> None:
        """Begin again without waiting: the network has changed."""
        self._wait = 0.0


class Recovery:
    """One outage, from the end of a session to the next. Ask `after` once for each attempt that failed."""

    def __init__(  # noqa: PLR0913  (what is known of the end, and what is allowed)
        self,
        reason: Reason,
        error: QosctlError,
        *,
        can_log_in: bool,
        patience_s: float,
        random: Callable[[], float],
        now: float,
    ) -> None:
        """`error` says how the session ended; `patience_s` bounds the outage, and may be infinite."""
        self._reason = reason
        self._error = error
        self._can_log_in = can_log_in
        self._deadline = now + patience_s
        self._began = now
        self._unreached = False
        self._refusals = 0
        self.backoff = Backoff(random)
        self.log_in = False
        """Whether the next attempt has to log in, because the server does not know the cookie any more."""

    def after(self, failure: QosctlError, now: float) -> float:
        """Return how many seconds to wait before the next attempt; raises what the user is to see when none is due."""
        if isinstance(failure, _FATAL):
            raise failure
        if isinstance(failure, CookieRefusedError):
            self._take_refusal(failure)
        elif isinstance(failure, _SOMEBODY_ELSE):
            self._unreached = True
            self._refusals = 0
        else:
            self._refusals += 1
        if self._refusals > REFUSALS_MAX or now >= self._deadline:
            raise failure
        if self.log_in and isinstance(failure, CookieRefusedError):
            return 0.0
        return self.backoff.next_wait(now - self._began)

    def _take_refusal(self, failure: CookieRefusedError) -> None:
        on_purpose = self._reason is Reason.SERVER_GOODBYE and not self._unreached
        if on_purpose:
            raise self._error
        if self.log_in or not self._can_log_in:
            raise failure
        self.log_in = True
