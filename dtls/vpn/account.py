"""Who the user is to the server, for as long as the client runs: the credentials, and the cookie they last gave.

No clock: `now` comes in, in seconds of a monotonic one.
"""

from __future__ import annotations

import math

from qosctl.dtls.vpn.credentials import CookieLogin, Credentials, PasswordLogin

FRESH_S = 300.0
"""How long a server commonly keeps an unused cookie (ocserv: cookie-timeout)."""


class Account:
    """Holds the session's cookie between two connections. Shows neither it nor the password in a repr."""

    def __init__(self, credentials: Credentials) -> None:
        self._login = credentials if isinstance(credentials, PasswordLogin) else None
        self._cookie = credentials if isinstance(credentials, CookieLogin) else None
        self._unused_since = -math.inf

    @property
    def can_log_in(self) -> bool:
        """Whether a new cookie can be had without asking anybody."""
        return self._login is not None

    @property
    def needs(self) -> PasswordLogin | CookieLogin:
        """The cookie, or the password where there is none yet or none any more."""
        if self._cookie is not None:
            return self._cookie
        assert self._login is not None  # one of the two is always there: see __init__ and forget_cookie
        return self._login

    def remember(self, cookie: CookieLogin, now: float) -> None:
        """Keep the cookie of a login, which has served for nothing yet."""
        self._cookie = cookie
        self._unused_since = now

    def accepted(self) -> None:
        """The cookie has brought a session: a server that refuses it from now on has forgotten it."""
        self._unused_since = -math.inf

    def fresh(self, now: float) -> bool:
        """Whether the server gave us the cookie itself a moment ago: it cannot have forgotten it."""
        return now < self._unused_since + FRESH_S

    def forget_cookie(self) -> None:
        """Log in by password next time, if there is one."""
        if self._login is not None:
            self._cookie = None
