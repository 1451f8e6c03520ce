"""How a user proves who they are: a password, or the cookie of a login made elsewhere.

Neither shows in a repr, so neither shows in a log or a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from qosctl.bpf.errors import UsageError

_COOKIE = re.compile(r"[!#-+\--:<-\[\]-~]{1,4096}\Z")  # RFC 6265 cookie-octet


@dataclass(frozen=True)
class PasswordLogin:
    """A user name and a source of the password, which is asked once and only when the server wants one."""

    username: str
    password: Callable[[], str] = field(repr=False)


@dataclass(frozen=True)
class CookieLogin:
    """The value of a `webvpn` cookie, such as `openconnect --authenticate` prints as COOKIE."""

    cookie: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _COOKIE.match(self.cookie):
            raise UsageError("the cookie holds characters that no cookie has", "openconnect --authenticate")

    @classmethod
    def parse(cls, text: str) -> CookieLogin:
        """Take the bare value, or a list of cookies as openconnect prints it (`NAME=VALUE; webvpn=VALUE`).

        UsageError when it cannot be one.
        """
        parts = [part.strip() for part in text.split(";")]
        named = [part.removeprefix("webvpn=") for part in parts if part.startswith("webvpn=")]
        return cls(named[0] if named else text.strip())


Credentials = PasswordLogin | CookieLogin
